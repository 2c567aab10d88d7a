"""Steady load of redis-py clients until standard input ends; one line of JSON then.

Each client keeps its own ledger: a counter, a list, a pipeline, a transaction. A reply that is not the next one of its
ledger is out of order; any exception is a failed command. No retries: they would hide both.
"""

import json
import sys
import threading

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

host, port, clients = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
stop = threading.Event()
results = []


def one(number, protocol):
    client = redis.Redis(
        host, port, protocol=protocol, retry=Retry(NoBackoff(), 0), socket_timeout=30, single_connection_client=True
    )
    done, told = 0, []
    counter, entries = f"py:count:{number}", f"py:list:{number}"
    count = 0

    def expect(got, wanted, what):
        if got != wanted:
            told.append(f"{what}: {got!r} in place of {wanted!r}")

    try:
        while not stop.is_set() and not told:
            count += 1
            expect(client.incr(counter), count, "INCR")
            expect(client.rpush(entries, count), count, "RPUSH")
            with client.pipeline(transaction=False) as pipe:
                for index in range(8):
                    pipe.echo(f"{number}:{count}:{index}")
                pipe.get(counter)
                wanted = [f"{number}:{count}:{index}".encode() for index in range(8)] + [str(count).encode()]
                expect(pipe.execute(), wanted, "pipeline")
            with client.pipeline(transaction=True) as pipe:
                pipe.watch(counter)
                value = int(pipe.get(counter))
                pipe.multi()
                pipe.set(f"py:copy:{number}", value)
                pipe.get(f"py:copy:{number}")
                expect(pipe.execute()[1], str(count).encode(), "transaction")
            done += 17
    except Exception as error:  # every one is a failed command
        told.append(f"{type(error).__name__}: {error}")
    results.append((done, told))


threads = [threading.Thread(target=one, args=(number, 2 + number % 2)) for number in range(clients)]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join(60)
told = [text for _, texts in results for text in texts]
stuck = sum(thread.is_alive() for thread in threads)
print(json.dumps({"commands": sum(done for done, _ in results), "failed": len(told) + stuck, "told": told[:5]}))
