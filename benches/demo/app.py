"""A small shop page: Flask, flask-redis, a few Redis commands per request.

Nothing in here knows about respmux: `REDIS_URL` is the only difference between
the runs. gunicorn's gevent worker does the monkey-patching, so that each HTTP
request in flight is a greenlet of its own, and while it waits for Redis it holds
a connection from redis-py's pool.
"""

import os

from flask import Flask
from flask_redis import FlaskRedis

app = Flask(__name__)
app.config["REDIS_URL"] = os.environ["REDIS_URL"]
store = FlaskRedis(app, decode_responses=True)


@app.get("/")
def product():
    """Four commands: a counter, a session, a cached page, the last visitors."""
    views = store.incr("shop:views")
    session = store.hgetall(f"shop:session:{views % 1000}")
    page = store.get(f"shop:page:{views % 100}") or "cold"
    recent = store.lrange("shop:recent", 0, 9)
    return f"{page} {session.get('user', 'guest')} {len(recent)} {views}\n"


@app.get("/order")
def order():
    """The same with a transaction: redis-py sends MULTI … EXEC in one packet."""
    with store.pipeline() as unit:
        unit.incr("shop:orders")
        unit.lpush("shop:recent", "order")
        unit.ltrim("shop:recent", 0, 9)
        orders = unit.execute()[0]
    return f"order {orders}\n"
