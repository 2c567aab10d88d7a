"""redis-py's asyncio client (5.2 and current) as applications use it. See check.py for the arguments."""

import asyncio
import sys
import time

import redis
import redis.asyncio as aredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from check import Mismatch, Suite

suite = Suite("redis-py-asyncio", redis.__version__)
args, equal, true, key = suite.args, suite.equal, suite.true, suite.key


def connect(**options):
    options.setdefault("retry", Retry(NoBackoff(), 0))  # retries would hide what a connection did
    options.setdefault("max_connections", 2**31)
    options.setdefault("socket_timeout", 20)
    return aredis.Redis(host=args.host, port=args.port, protocol=args.protocol, **options)


def connect_direct(**options):
    options.setdefault("socket_timeout", 20)
    return aredis.Redis(host=args.direct_host, port=args.direct_port, protocol=args.protocol, **options)


async def eventually(what, probe, seconds=10.0):
    end = time.monotonic() + seconds
    while not await probe():
        if time.monotonic() > end:
            raise Mismatch(f"not within {seconds} s: {what}")
        await asyncio.sleep(0.01)
    suite.compared += 1


@suite.check
async def many_tasks():
    async with connect() as r:

        async def work(index):
            for n in range(suite.size(30, 10)):
                token = f"{index}.{n}".encode()
                equal(await r.echo(token), token)
                await r.set(key(f"task:{index}"), token)
                equal(await r.get(key(f"task:{index}")), token)
                equal(await r.incr(key(f"count:{index}")), n + 1)

        await asyncio.gather(*(work(i) for i in range(suite.size(200, 50))))


@suite.check
async def pipelines_and_transactions():
    async with connect() as r:
        for transaction in (True, False):
            for size in (1, 16, 300):
                async with r.pipeline(transaction=transaction) as pipe:
                    for i in range(size):
                        pipe.set(key(f"pipe:{i}"), i)
                        pipe.get(key(f"pipe:{i}"))
                    expected = [x for i in range(size) for x in (True, str(i).encode())]
                    equal(await pipe.execute(), expected)

        async def bump():
            async def body(pipe):
                value = int(await pipe.get(key("watched")) or 0)
                pipe.multi()
                pipe.set(key("watched"), value + 1)

            await r.transaction(body, key("watched"))

        count = suite.size(20, 8)
        await asyncio.gather(*(bump() for _ in range(count)))
        equal(int(await r.get(key("watched"))), count, "no lost update")


@suite.check
async def cancelled_commands_leave_nothing_behind():
    """redis-py cancels by closing the connection; the next caller must never read the cancelled reply."""
    async with connect() as r:
        await r.set(key("cancel"), "x" * 100_000)
        for n in range(suite.size(60, 20)):
            task = asyncio.create_task(r.get(key("cancel")))
            for _ in range(n % 6):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            equal(await asyncio.gather(*(r.echo(f"{n}.{i}") for i in range(5))), [f"{n}.{i}".encode() for i in range(5)])


@suite.check
async def publish_subscribe():
    async with connect() as r:
        count, messages = suite.size(20, 5), suite.size(50, 20)

        async def listen(index, ready):
            async with r.pubsub() as ps:
                await ps.subscribe(key("ch"), key(f"ch:{index}"))
                for n in (1, 2):
                    equal((await ps.get_message(timeout=10))["data"], n)
                ready.set_result(True)
                got = []
                while len(got) < messages:
                    message = await ps.get_message(timeout=10)
                    true(message is not None, f"subscriber {index} misses messages")
                    got.append(message["data"])
                equal(got, [str(n).encode() for n in range(messages)])

        loop = asyncio.get_running_loop()
        ready = [loop.create_future() for _ in range(count)]
        tasks = [asyncio.create_task(listen(i, f)) for i, f in enumerate(ready)]
        await asyncio.wait_for(asyncio.gather(*ready), 20)
        for n in range(messages):
            equal(await r.publish(key("ch"), n), count)
        await asyncio.wait_for(asyncio.gather(*tasks), 30)


@suite.check
async def blocking():
    async with connect() as r, connect_direct() as d:
        started = time.monotonic()
        equal(await r.blpop(key("none"), timeout=0.3), None)
        true(0.29 <= time.monotonic() - started < 1.5, "BLPOP timeout 0.3")
        count = suite.size(100, 30)
        pops = [asyncio.create_task(r.blpop([key("q")], timeout=20)) for _ in range(count)]
        for n in range(count):
            await r.rpush(key("q"), n)
        got = await asyncio.gather(*pops)
        equal(sorted(int(v) for _, v in got), list(range(count)), "each element once")
        blocked = asyncio.create_task(r.blpop(key("cancelled"), timeout=30))
        started_blocked = lambda: _blocked(d)
        await eventually("blocked", started_blocked)
        blocked.cancel()
        await asyncio.gather(blocked, return_exceptions=True)
        await eventually("cancelled pop is gone", lambda: _unblocked(d))
        await d.rpush(key("cancelled"), "kept")
        equal(await d.llen(key("cancelled")), 1, "a cancelled pop takes nothing")
        equal(await r.lpop(key("cancelled")), b"kept")


async def _blocked(d):
    return (await d.info("clients"))["blocked_clients"] > 0


async def _unblocked(d):
    return (await d.info("clients"))["blocked_clients"] == 0


@suite.check
async def scripts_streams_scan():
    async with connect() as r, connect_direct() as d:
        script = r.register_script("return {ARGV[1], redis.call('INCR', KEYS[1])}")
        for n in range(suite.size(40, 10)):
            if n % 10 == 9:
                await d.script_flush()
            equal(await script(keys=[key("s")], args=[n]), [str(n).encode(), n + 1])
        await asyncio.gather(*(r.set(key(f"scan:{n}"), n) for n in range(200)))
        equal(len([k async for k in r.scan_iter(match=key("scan:*"), count=50)]), 200)
        await r.xgroup_create(key("x"), "g", mkstream=True)
        reading = asyncio.create_task(r.xreadgroup("g", "c", {key("x"): ">"}, block=10000))
        await eventually("reader blocks", lambda: _blocked(d))
        await r.xadd(key("x"), {"f": "v"})
        true("b'v'" in str(await reading), "the blocked reader gets the entry")


@suite.check
async def databases_names_users():
    async with connect(db=1, client_name=f"{suite.prefix}-n") as one, connect() as zero, connect_direct() as d:
        await one.set(key("db"), "1")
        equal(await zero.get(key("db")), None)
        equal(await one.get(key("db")), b"1")
        name = await one.client_getname()
        equal(name.decode() if isinstance(name, bytes) else name, f"{suite.prefix}-n")
        user = f"u-{suite.prefix}"
        await d.acl_setuser(user, enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all"])
        async with connect(username=user, password="pw") as bob:
            who = await asyncio.gather(*(c.acl_whoami() for c in (bob, zero) * 20))
            names = [w.decode() if isinstance(w, bytes) else w for w in who]
            equal(names, [user, "default"] * 20)
        await d.acl_deluser(user)


@suite.check
async def timeouts_then_go_on():
    async with connect(socket_timeout=0.2) as r:
        for n in range(3):
            try:
                got = await r.blpop(key(f"slow:{n}"), timeout=30)
                raise Mismatch(f"expected a timeout, got {got!r}")
            except redis.exceptions.TimeoutError:
                pass
            for i in range(10):
                equal(await r.echo(f"{n}.{i}"), f"{n}.{i}".encode())


sys.exit(asyncio.run(suite.run_async()))
