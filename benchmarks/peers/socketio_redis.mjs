// socket.io with its Redis Streams adapter, over WebSocket only: each event goes to everybody, on all processes.
//
// Started as: node socketio_redis.mjs --port P --redis URL
// Packages are looked for in ./node_modules and then along NODE_PATH, which `import` alone would not read.

import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

const require = createRequire(process.cwd() + '/');
const { Server } = require('socket.io');
const { createAdapter } = require('@socket.io/redis-streams-adapter');
const { createClient } = require('redis');

const { values: options } = parseArgs({ options: { port: { type: 'string' }, redis: { type: 'string' } } });

const redis = createClient({ url: options.redis });
await redis.connect();

const io = new Server({ adapter: createAdapter(redis), transports: ['websocket'] });

io.on('connection', (socket) => {
  socket.on('message', (data) => io.emit('message', data));
});

io.listen(Number(options.port));
