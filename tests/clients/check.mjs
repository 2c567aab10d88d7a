// What the Node client scripts share: arguments, assertions that count, one line of JSON.
// A mismatch ends the run with exit status 1 and names the check.
import { isDeepStrictEqual, parseArgs, inspect } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';

const { values: args } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string' },
    'direct-host': { type: 'string', default: '127.0.0.1' },
    'direct-port': { type: 'string' },
    protocol: { type: 'string', default: '2' },
    level: { type: 'string', default: 'full' },
    prefix: { type: 'string', default: '' },
    only: { type: 'string', default: '' },
  },
});

export class Suite {
  constructor(client, version) {
    this.client = client;
    this.version = version;
    this.args = { ...args, port: Number(args.port), directPort: Number(args['direct-port']) };
    this.args.directHost = args['direct-host'];
    this.args.protocol = Number(args.protocol);
    this.prefix = args.prefix || `${client}-${process.pid}-${Date.now()}`;
    this.checks = [];
    this.compared = 0;
    this.skipped = [];
  }

  key(name) {
    return `${this.prefix}:${name}`;
  }

  size(full, short) {
    return this.args.level === 'full' ? full : short;
  }

  check(name, body) {
    this.checks.push([name, body]);
  }

  equal(got, expected, what = 'value') {
    this.compared += 1;
    if (!isDeepStrictEqual(got, expected)) {
      throw new Error(`${what}: got ${inspect(got)}, expected ${inspect(expected)}`.slice(0, 2000));
    }
  }

  true(condition, what) {
    this.compared += 1;
    if (!condition) throw new Error(what);
  }

  async rejects(text, promise) {
    this.compared += 1;
    let got;
    try {
      got = await promise;
    } catch (error) {
      if (!String(error.message).includes(text)) throw new Error(`'${error.message}' has no '${text}'`);
      return;
    }
    throw new Error(`expected an error with '${text}', got ${inspect(got)}`);
  }

  // Polls until the probe is true; a deadline turns waiting into a mismatch.
  async eventually(what, probe, milliseconds = 10000) {
    const end = Date.now() + milliseconds;
    while (!(await probe())) {
      if (Date.now() > end) throw new Error(`not within ${milliseconds} ms: ${what}`);
      await sleep(10);
    }
    this.compared += 1;
  }

  async run(close) {
    const started = Date.now();
    const failed = [];
    for (const [name, body] of this.checks) {
      if (!name.includes(this.args.only)) continue;
      try {
        await deadline(body(), 60000);
      } catch (error) {
        console.error(error);
        failed.push(`${name}: ${error.message}`.slice(0, 600));
      }
    }
    await deadline(close(), 10000).catch((error) => failed.push(`close: ${error.message}`));
    const { client, version, compared, skipped } = this;
    const { protocol, level } = this.args;
    const seconds = (Date.now() - started) / 1000;
    console.log(
      JSON.stringify({ client, version, protocol, level, checks: this.checks.length, compared, skipped, failed, seconds }),
    );
    process.exit(failed.length || !compared ? 1 : 0);
  }
}

function deadline(promise, milliseconds) {
  const late = sleep(milliseconds, undefined, { ref: false }).then(() => {
    throw new Error(`no answer within ${milliseconds} ms`);
  });
  return Promise.race([promise, late]);
}
