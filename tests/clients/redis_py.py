"""redis-py (synchronous, 5.2 and current) as applications use it. See check.py for the arguments."""

import queue
import threading
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from check import Suite

suite = Suite("redis-py", redis.__version__)
args, equal, true, key = suite.args, suite.equal, suite.true, suite.key


def connect(**options):
    """A client of the server under test; its pool has no limit unless one is given.

    Without retries (redis-py 6 and later retry by default): they would hide what a connection did.
    """
    options.setdefault("retry", Retry(NoBackoff(), 0))
    options.setdefault("max_connections", 2**31)
    options.setdefault("socket_timeout", 20)
    if args.tls_ca:
        options.update(ssl=True, ssl_ca_certs=args.tls_ca)
    return redis.Redis(args.host, args.port, protocol=args.protocol, **options)


def connect_direct(**options):
    """A client of the Redis behind it, for cross-checks."""
    options.setdefault("socket_timeout", 20)
    return redis.Redis(args.direct_host, args.direct_port, protocol=args.protocol, **options)


def text_of(value):
    """Some replies are text on RESP2 and bytes on RESP3 in redis-py; this compares either."""
    return value.decode() if isinstance(value, bytes) else value


def in_threads(count, work):
    """Runs `work(index)` in that many threads at once; the first error is raised here."""
    errors = queue.Queue()
    barrier = threading.Barrier(count)

    def one(index):
        try:
            barrier.wait(20)
            work(index)
        except Exception as error:  # handed to the main thread
            errors.put(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        true(not thread.is_alive(), "a client thread is stuck")
    if not errors.empty():
        raise errors.get()


r = connect()
d = connect_direct()


@suite.check
def plain_commands():
    rounds = suite.size(300, 60)
    for i in range(rounds):
        k, v = key(f"plain:{i}"), f"value-{i}-" + "x" * (i % 50)
        equal(r.set(k, v), True)
        equal(r.get(k), v.encode())
        equal(r.strlen(k), len(v))
    equal(r.mget([key(f"plain:{i}") for i in range(3)] + [key("none")])[3], None)
    equal(d.get(key("plain:7")), r.get(key("plain:7")))
    equal(r.hset(key("hash"), mapping={"a": 1, "b": 2}), 2)
    equal(r.hgetall(key("hash")), {b"a": b"1", b"b": b"2"})
    equal(r.sadd(key("set"), "x", "y"), 2)
    equal(set(r.smembers(key("set"))), {b"x", b"y"})
    equal(r.zadd(key("zset"), {"m": 1.5, "n": 2}), 2)
    zset = r.zrange(key("zset"), 0, -1, withscores=True)
    equal([(bytes(m), float(s)) for m, s in zset], [(b"m", 1.5), (b"n", 2.0)])
    equal(r.incrbyfloat(key("float"), 1.5), 1.5)
    equal(r.delete(key("set"), key("zset")), 2)


@suite.check
def sizes():
    for size in (0, 1, 16383, 16384, 16385, 65535, 65536, 65537, 1 << 20, (4 << 20) + 1):
        value = bytes((i * 31 + size) & 0xFF for i in range(997)) * (size // 997 + 1)
        r.set(key("size"), value[:size])
        equal(r.get(key("size")) == value[:size], True, f"value of {size} bytes")


@suite.check
def errors_are_the_servers():
    r.set(key("string"), "v")
    suite.raises(redis.ResponseError, "WRONGTYPE", lambda: r.lpush(key("string"), "x"))
    suite.raises(redis.ResponseError, "unknown command 'NOSUCH'", lambda: r.execute_command("NOSUCH", "a"))
    suite.raises(redis.ResponseError, "wrong number of arguments", lambda: r.execute_command("GET"))
    suite.raises(redis.ResponseError, "EXEC without MULTI", lambda: r.execute_command("EXEC"))
    equal(r.get(key("string")), b"v")


@suite.check
def pipelines_longer_than_any_buffer():
    # redis-py writes the whole of one before it reads a reply.
    value = b"v" * 1024
    for transaction in (False, True):
        pipe = r.pipeline(transaction=transaction)
        for i in range(20_000):
            pipe.set(key(f"long:{i % 1000}"), value)
            pipe.get(key(f"long:{i % 1000}"))
        replies = pipe.execute()
        equal((len(replies), replies.count(True), replies.count(value)), (40_000, 20_000, 20_000))
    equal(d.get(key("long:999")), value)


@suite.check
def pipelines():
    for transaction in (True, False):
        for size in suite.size((1, 2, 16, 200, 1000), (1, 16, 200)):
            pipe = r.pipeline(transaction=transaction)
            for i in range(size):
                pipe.set(key(f"pipe:{i}"), f"{transaction}-{i}")
                pipe.get(key(f"pipe:{i}"))
            expected = [x for i in range(size) for x in (True, f"{transaction}-{i}".encode())]
            equal(pipe.execute(), expected, f"pipeline of {size}")
    pipe = r.pipeline(transaction=True)
    pipe.set(key("pipe:s"), "v").lpush(key("pipe:s"), "x").get(key("pipe:s"))
    replies = pipe.execute(raise_on_error=False)
    equal(replies[0], True)
    true(isinstance(replies[1], redis.ResponseError), "the failing command of the transaction has its error")
    equal(replies[2], b"v")
    pipe = r.pipeline(transaction=True)
    pipe.set(key("pipe:abort"), "v")
    pipe.execute_command("NOSUCH")
    suite.raises(redis.ResponseError, "NOSUCH", pipe.execute)
    equal(d.get(key("pipe:abort")), None, "aborted transaction")


@suite.check
def optimistic_locking():
    counter, workers, each = key("watch"), suite.size(8, 4), suite.size(25, 8)

    def add_one(index):
        for _ in range(each):
            r.transaction(lambda pipe: (pipe.get(counter), pipe.multi(), pipe.incr(counter)), counter)
            # the value seen under WATCH is used, so that a stale read would lose an update
            def bump(pipe):
                value = int(pipe.get(counter) or 0)
                pipe.multi()
                pipe.set(counter, value + 1)
            r.transaction(bump, counter)

    in_threads(workers, add_one)
    equal(int(d.get(counter)), workers * each * 2, "no lost update")
    with r.pipeline() as pipe:
        pipe.watch(counter)
        d.incr(counter)
        pipe.multi()
        pipe.set(key("watch:never"), 1)
        suite.raises(redis.WatchError, "", pipe.execute)
    equal(d.exists(key("watch:never")), 0)
    with r.pipeline() as pipe:
        pipe.watch(counter)
        equal(pipe.get(counter), d.get(counter))
        pipe.unwatch()
    with r.pipeline() as pipe:
        pipe.watch(counter)  # left watching: the pool must clean it up
    equal(r.incr(counter), workers * each * 2 + 2)


@suite.check
def publish_subscribe():
    threads_count, messages = suite.size(20, 5), suite.size(50, 10)
    common = key("channel")
    ready = threading.Semaphore(0)
    published = threading.Event()

    def listen(index):
        own = key(f"channel:{index}")
        with r.pubsub() as ps:
            ps.subscribe(common, own)
            ps.psubscribe(key("pattern:*"))
            confirmations = [ps.get_message(timeout=10) for _ in range(3)]
            equal([m["type"] for m in confirmations], ["subscribe", "subscribe", "psubscribe"])
            equal([m["data"] for m in confirmations], [1, 2, 3])
            ready.release()
            got = []
            while len(got) < messages * 3:
                message = ps.get_message(timeout=10)
                true(message is not None, f"subscriber {index} misses messages: {len(got)} of {messages * 3}")
                got.append(message)
            for name, kind in ((common, "message"), (own, "message"), (key("pattern:x"), "pmessage")):
                mine = [m["data"] for m in got if m["channel"] == name.encode()]
                equal(mine, [f"{name}-{n}".encode() for n in range(messages)], "messages in order")
                true(all(m["type"] == kind for m in got if m["channel"] == name.encode()), "type")
            ps.unsubscribe()
            equal(sorted(ps.get_message(timeout=10)["data"] for _ in range(2)), [1, 2])
            ps.ping("still here")
            true("still here" in str(ps.get_message(timeout=10)), "PING while subscribed")
            published.wait(20)

    def publish():
        for _ in range(threads_count):
            true(ready.acquire(timeout=20), "all subscribed")
        for n in range(messages):
            equal(r.publish(common, f"{common}-{n}"), threads_count, "receivers")
            r.publish(key("pattern:x"), f"{key('pattern:x')}-{n}")
            for index in range(threads_count):
                equal(r.publish(key(f"channel:{index}"), f"{key(f'channel:{index}')}-{n}"), 1)
        published.set()

    in_threads(threads_count + 1, lambda i: listen(i) if i < threads_count else publish())


@suite.check
def subscriber_thread():
    seen = queue.Queue()
    ps = r.pubsub(ignore_subscribe_messages=True)
    ps.subscribe(**{key("handler"): seen.put})
    thread = ps.run_in_thread(sleep_time=0.05, daemon=True)
    suite.eventually("subscribed", lambda: d.pubsub_numsub(key("handler"))[0][1] >= 1)
    for n in range(20):
        r.publish(key("handler"), n)
    equal([int(seen.get(timeout=10)["data"]) for _ in range(20)], list(range(20)))
    thread.stop()
    thread.join(10)
    suite.eventually("unsubscribed", lambda: d.pubsub_numsub(key("handler"))[0][1] == 0)


@suite.check
def blocking_pops():
    q = key("queue")
    started = time.monotonic()
    equal(r.blpop(q, timeout=1), None)
    waited = time.monotonic() - started
    true(0.99 <= waited < 2.5, f"BLPOP with timeout 1 returned after {waited:.3f} s")
    got, workers = queue.Queue(), suite.size(20, 8)

    def work(index):
        if index == workers:
            for n in range(workers * 5):
                r.rpush(q, n)
            return
        for _ in range(5):
            item = r.blpop([key("queue:other"), q], timeout=20)
            equal(item[0], q.encode())
            got.put(int(item[1]))

    in_threads(workers + 1, work)
    equal(sorted(got.queue), list(range(workers * 5)), "each element exactly once")
    equal(d.llen(q), 0)
    r.rpush(key("src"), "e")
    equal(r.blmove(key("src"), key("dst"), 2, "LEFT", "RIGHT"), b"e")
    equal(r.brpoplpush(key("dst"), key("src"), 2), b"e")
    r.zadd(key("z"), {"m": 0.5})
    popped = r.bzpopmin(key("z"), 2)
    equal((bytes(popped[0]), bytes(popped[1]), float(popped[2])), (key("z").encode(), b"m", 0.5))


@suite.check
def socket_timeout_then_pool_goes_on():
    impatient = connect(socket_timeout=0.3)
    for n in range(suite.size(5, 2)):
        q = key(f"abandoned:{n}")
        suite.raises(redis.exceptions.TimeoutError, "", lambda q=q: impatient.blpop(q, timeout=30))
        for i in range(20):
            equal(impatient.set(key("after"), f"{n}-{i}"), True)
            equal(impatient.get(key("after")), f"{n}-{i}".encode())
        suite.eventually("the abandoned pop is cancelled", lambda: d.info("clients")["blocked_clients"] == 0)
        d.rpush(q, "kept")
        equal(d.lrange(q, 0, -1), [b"kept"], "nobody is there to take it")
    impatient.close()


@suite.check
def scripts():
    script = r.register_script("return {KEYS[1], ARGV[1], redis.call('INCRBY', KEYS[1], ARGV[1])}")
    total = 0
    for n in range(1, suite.size(60, 15)):
        if n % 20 == 0:
            d.script_flush()  # NOSCRIPT: the client loads the script again
        total += n
        equal(script(keys=[key("script")], args=[n]), [key("script").encode(), str(n).encode(), total])
    sha = r.script_load("return ARGV[1]")
    equal(r.script_exists(sha, "0" * 40), [True, False])
    equal(r.evalsha(sha, 0, "token"), b"token")
    pipe = r.pipeline(transaction=False)
    for n in range(10):
        script(keys=[key("script")], args=[n], client=pipe)
    total += 45
    equal(pipe.execute()[-1][2], total)
    suite.raises(redis.ResponseError, "own text", lambda: r.eval("return redis.error_reply('MY own text')", 0))


@suite.check
def locks():
    inside, workers = [], suite.size(6, 3)

    def work(index):
        for _ in range(3):
            with r.lock(key("lock"), timeout=20, blocking_timeout=20, sleep=0.005):
                inside.append(index)
                equal(inside, [index], "one holder at a time")
                inside.clear()

    in_threads(workers, work)


@suite.check
def scanning():
    count = suite.size(1500, 300)
    pipe = r.pipeline(transaction=False)
    for n in range(count):
        pipe.set(key(f"scan:{n}"), n)
        pipe.hset(key("scanhash"), f"f{n}", n)
    pipe.execute()
    found = set(r.scan_iter(match=key("scan:*"), count=100))
    equal(len(found), count)
    equal(len(dict(r.hscan_iter(key("scanhash"), count=100))), count)


@suite.check
def databases():
    dbs = [connect(db=n) for n in range(suite.size(4, 3))]
    for n, c in enumerate(dbs):
        c.set(key("db"), n)
    for n, c in enumerate(dbs):
        equal(c.get(key("db")), str(n).encode())
        equal(connect_direct(db=n).get(key("db")), str(n).encode())
    with r.client() as one:
        equal(one.execute_command("SELECT", 3), True)
        one.set(key("selected"), "in 3")
        equal(one.execute_command("SELECT", 0), True)
        equal(one.get(key("selected")), None)
    equal(connect_direct(db=3).get(key("selected")), b"in 3")
    suite.raises(redis.ResponseError, "DB index is out of range", lambda: connect(db=9999).ping())
    for c in dbs:
        c.close()


@suite.check
def names_and_ids():
    named = [connect(client_name=f"{suite.prefix}-{n}", single_connection_client=True) for n in range(5)]
    ids = [c.client_id() for c in named]
    equal(len(set(ids)), 5, "ids differ")
    for n, c in enumerate(named):
        equal(text_of(c.client_getname()), f"{suite.prefix}-{n}")
        equal(c.client_id(), ids[n], "the id stays")
        info = c.client_info()
        equal((int(info["id"]), info["name"]), (ids[n], f"{suite.prefix}-{n}"))
        c.client_setname(f"{suite.prefix}-again-{n}")
    listed = {line["name"]: int(line["id"]) for line in named[0].client_list()}
    for n in range(5):
        equal(listed.get(f"{suite.prefix}-again-{n}"), ids[n], "CLIENT LIST shows the client")
    equal(len(named[0].client_list(client_id=[str(ids[1])])), 1)
    equal(named[0].execute_command("CLIENT", "KILL", "ID", ids[4]), 1)
    suite.raises(
        redis.exceptions.ConnectionError,
        "",
        lambda: named[4].connection.send_command("PING", check_health=False)
        or named[4].connection.read_response(),
    )
    for c in named:
        c.close()


@suite.check
def access_control():
    user = f"u-{suite.prefix}"
    d.acl_setuser(user, enabled=True, passwords=["+pw"], keys=[f"{suite.prefix}:acl:*"], commands=["+@all", "-keys"])
    bob = connect(username=user, password="pw")
    equal(text_of(bob.acl_whoami()), user)
    equal(bob.set(key("acl:mine"), 1), True)
    suite.raises(redis.exceptions.NoPermissionError, "", lambda: bob.set(key("other"), 1))
    suite.raises(redis.exceptions.NoPermissionError, "", lambda: bob.keys("*"))
    suite.raises(redis.exceptions.AuthenticationError, "", lambda: connect(username=user, password="no").ping())
    equal(text_of(r.acl_whoami()), "default", "other clients keep their identity")

    def both(index):
        client, name = ((bob, user), (r, "default"))[index % 2]
        for _ in range(20):
            equal(text_of(client.acl_whoami()), name)

    in_threads(10, both)
    bob.close()
    d.acl_deluser(user)


@suite.check
def pool_of_threads():
    threads, each = suite.size(200, 40), suite.size(30, 10)

    def work(index):
        for n in range(each):
            token = f"{index}.{n}"
            equal(r.echo(token), token.encode())
            r.set(key(f"thread:{index}"), token)
            equal(r.get(key(f"thread:{index}")), token.encode())
            equal(r.incr(key(f"count:{index}")), n + 1)

    in_threads(threads, work)
    tls = {"connection_class": redis.SSLConnection, "ssl_ca_certs": args.tls_ca} if args.tls_ca else {}
    limited = redis.Redis(
        connection_pool=redis.BlockingConnectionPool(
            host=args.host, port=args.port, protocol=args.protocol, max_connections=5, timeout=20, **tls
        )
    )
    in_threads(20, lambda i: [equal(limited.echo(f"{i}"), f"{i}".encode()) for _ in range(10)])
    limited.close()


@suite.check
def health_checks():
    checked = connect(health_check_interval=1, single_connection_client=True)
    checked.set(key("health"), 0)
    checked.connection.next_health_check = 1e-9  # due: the next command sends PING first
    equal(checked.get(key("health")), b"0")
    equal(checked.incr(key("health")), 1)
    with checked.pubsub() as ps:
        ps.subscribe(key("health"))
        equal(ps.get_message(timeout=5)["type"], "subscribe")
        ps.connection.next_health_check = 1e-9
        r.publish(key("health"), "m")
        suite.eventually("a message across a health check", lambda: (ps.get_message(timeout=1) or {}).get("data") == b"m")
    checked.close()


@suite.check
def client_side_cache():
    if args.protocol != 3:
        return suite.skip("client_side_cache", "needs RESP3")
    from redis.cache import CacheConfig

    try:
        connect_direct(cache_config=CacheConfig(max_size=100)).ping()
    except redis.exceptions.ConnectionError as error:  # the library refuses this server, also without a proxy
        return suite.skip("client_side_cache", str(error))
    cached = connect(cache_config=CacheConfig(max_size=100))
    r.set(key("cached"), "one")
    equal(cached.get(key("cached")), b"one")
    true(len(cached.get_cache().collection) >= 1, "the reply was cached")
    equal(cached.get(key("cached")), b"one")
    r.set(key("cached"), "two")
    suite.eventually("the invalidation arrives", lambda: cached.get(key("cached")) == b"two")
    d.set(key("cached"), "three")
    suite.eventually("also of a direct write", lambda: cached.get(key("cached")) == b"three")
    cached.close()


@suite.check
def monitor():
    with connect().monitor() as m:
        commands = m.listen()
        tokens = [f"monitored-{n}" for n in range(5)]
        for token in tokens:
            r.set(key("monitored"), token)
        seen = []
        end = time.monotonic() + 10
        while len(seen) < 5 and time.monotonic() < end:
            line = next(commands)["command"]
            if key("monitored") in line:
                seen.append(line)
        equal([t in line for t, line in zip(tokens, seen)], [True] * 5)
    equal(r.ping(), True)


@suite.check
def streams():
    s, group = key("stream"), "g"
    r.xgroup_create(s, group, id="$", mkstream=True)
    true(not r.xreadgroup(group, "c", {s: ">"}, count=1, block=100), "nothing to read yet")
    got, workers, entries = queue.Queue(), 4, suite.size(80, 20)

    def work(index):
        if index == workers:
            for n in range(entries):
                r.xadd(s, {"n": n})
            return
        while got.qsize() < entries:
            reply = r.xreadgroup(group, f"c{index}", {s: ">"}, count=3, block=200)
            for entry in flatten(reply):
                got.put(int(entry[1][b"n"]))
                equal(r.xack(s, group, entry[0]), 1)

    def flatten(reply):
        if not reply:
            return []
        if isinstance(reply, dict):  # RESP3: {stream: [[entries]]}
            return [e for batches in reply.values() for batch in batches for e in batch]
        return [e for _, batch in reply for e in batch]

    in_threads(workers + 1, work)
    equal(sorted(got.queue), list(range(entries)), "each entry exactly once")
    equal(r.xpending(s, group)["pending"], 0)
    result = []
    reader = threading.Thread(target=lambda: result.append(r.xread({s: "$"}, block=10000)))
    reader.start()
    suite.eventually("the reader blocks", lambda: d.info("clients")["blocked_clients"] >= 1)
    r.xadd(s, {"n": "last"})
    reader.join(15)
    equal([e[1] for e in flatten(result[0])], [{b"n": b"last"}])


@suite.check
def decoded_and_raw():
    text = connect(decode_responses=True)
    text.set(key("ünï"), "wörld")
    equal(text.get(key("ünï")), "wörld")
    equal(r.dump(key("ünï")) is not None, True)
    true("redis_version" in text.info("server"), "INFO is parsed")
    equal(r.command_count() > 200, True)
    equal(r.config_get("maxmemory-policy"), d.config_get("maxmemory-policy"))
    equal(r.object("encoding", key("ünï")), d.object("encoding", key("ünï")))
    equal(r.time()[0] >= 1_600_000_000, True)
    text.close()


suite.run()
