"""Run every benchmark and print its tables; exit code 1 if a bar is missed."""

import sys

from bench import content_client, content_server, ranges, start, tier2_faults

if __name__ == "__main__":
    bars = ranges.run() + start.run() + content_server.run() + content_client.run()
    bars += tier2_faults.run()
    sys.exit(0 if all(bar.is_met for bar in bars) else 1)
