"""The value of the Date header, formatted once a second.

Source: RFC 9110, "Date": an origin server with a clock sends it in all answers from 2xx to 4xx.
"""

import time
from email.utils import formatdate
from functools import lru_cache


def http_date() -> str:
    return _formatted(int(time.time()))


@lru_cache(maxsize=1)
def _formatted(now_s: int) -> str:
    return formatdate(now_s, usegmt=True)
