"""One command that needs a connection of its own, by redis-py: as it comes (`plain`), or told to try again (`retry`).

Prints the outcome: `OK`, or the class and text of the error.
"""

import sys

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

port, mode = int(sys.argv[1]), sys.argv[2]
options = {}
if mode == "retry":
    options = {"retry": Retry(ConstantBackoff(0.05), 200), "retry_on_error": [redis.exceptions.ConnectionError]}
client = redis.Redis(host="127.0.0.1", port=port, **options)
try:
    with client.pipeline() as pipe:
        pipe.watch("k")
        pipe.multi()
        pipe.set("k", 1)
        print("OK" if pipe.execute() == [True] else "something else")
except redis.exceptions.RedisError as error:
    print(f"{type(error).__name__}: {error}")
