"""Sequential callers with redis-py as it comes; see callers.mjs for what they do and say."""

import argparse
import json
import os
import random
import sys
import threading
import time

import redis
from redis.maint_notifications import MaintNotificationsConfig

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
parser.add_argument("--arm", required=True)
parser.add_argument("--callers", type=int, required=True)
parser.add_argument("--least", type=float, required=True)
parser.add_argument("--most", type=float, required=True)
args = parser.parse_args()

stop = threading.Event()
done, failures, wrong = [0] * args.callers, [], []


def connect():
    options = {}
    if "told" not in args.arm:
        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    return redis.Redis("127.0.0.1", args.port, socket_timeout=20, **options)


def call(number):
    client, key, want = connect(), f"{args.arm}:{number}", 0
    while not stop.is_set():
        try:
            want += 1
            got = client.incr(key)
            done[number] += 1
            if got != want:
                wrong.append(f"{key}: {got} instead of {want}")
                want = got
        except Exception as error:  # what an application would see
            failures.append(f"{key} {want}: {error!r}")
            want = resume(client, key)
        if args.most:
            time.sleep(random.uniform(args.least, args.most) / 1000)


def resume(client, key):
    while True:
        try:
            return int(client.get(key) or 0)
        except Exception:
            time.sleep(0.01)


threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(args.callers)]
for thread in threads:
    thread.start()
print("ready", flush=True)
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join(20)
line = {"commands": sum(done), "failed": len(failures), "wrong": len(wrong), "said": (failures + wrong)[:5]}
print(json.dumps(line), flush=True)
os._exit(0)  # the library's timers of past moves would keep the process
