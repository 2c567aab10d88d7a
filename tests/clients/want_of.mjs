// One command that needs a connection of its own, by ioredis or node-redis: as it comes (`plain`), or told to try again
// (`retry`, ioredis only). Prints the outcome: `OK`, or the error's text.
import { createRequire } from 'node:module';
import path from 'node:path';

const require = createRequire(path.join(process.env.NODE_PATH ?? 'node_modules', 'x.js'));
const [port, mode, library] = [Number(process.argv[2]), process.argv[3], process.argv[4]];

async function watch() {
  if (library === 'ioredis') {
    const { Redis } = require('ioredis');
    const again = mode === 'retry' ? { reconnectOnError: (error) => (error.message.startsWith('LOADING') ? 2 : false) } : {};
    const client = new Redis({ host: '127.0.0.1', port, ...again });
    return client.watch('k');
  }
  const { createClient } = require('redis');
  const client = await createClient({ socket: { host: '127.0.0.1', port } }).connect();
  return client.watch('k');
}

try {
  console.log(await watch());
} catch (error) {
  console.log(`${error.constructor.name}: ${error.message}`);
}
process.exit(0);
