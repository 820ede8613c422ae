"""A worker for the tests of `clipfs.system.workers`: its job says how it behaves."""

import os
import signal
import threading

from clipfs import errors
from clipfs.system.child import ask, report, worker_main


def work(job: bytes) -> list[bytes]:
    return [_result(job)]


def _result(job: bytes) -> bytes:
    match job:
        case b"large result":
            return bytes(range(256)) * 40_000
        case b"reports":
            for number in range(3):
                report({"number": number})
        case b"asks":
            return ask({"number": 1}) + ask({"number": 2})
        case b"asks beside":
            asking = threading.Thread(target=ask, args=("how long?",))
            asking.start()
            report("at work")
            asking.join()
        case b"clip error":
            raise errors.UnsupportedImage("as the job says\nin two lines")
        case b"os error":
            os.stat("/nonexistent")
        case b"too much memory":
            return b"x" * (1 << 40)
        case b"bug":
            raise RuntimeError("planted")
        case b"killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case b"cut short":
            os.write(1, b'{"done":100}\n0123456789')
            os._exit(0)
        case b"waits":
            report({"pid": os.getpid()})
            threading.Event().wait()
        case b"working directory":
            return os.getcwd().encode()
        case _ if job.startswith(b"names itself to "):
            for number in map(int, job.split()[3:]):
                os.write(number, b"%d" % number)
        case b"environment":
            return "\n".join(sorted(os.environ)).encode()
    return job.upper()


if __name__ == "__main__":
    worker_main(work)
