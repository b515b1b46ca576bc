// npm `ws` with Redis pub/sub between its processes: what comes from a client is published, and what comes from Redis
// goes to every client.
//
// Started as: node ws_redis.mjs --port P --redis URL
// Packages are looked for in ./node_modules and then along NODE_PATH, which `import` alone would not read.

import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

const require = createRequire(process.cwd() + '/');
const { WebSocket, WebSocketServer } = require('ws');
const { createClient } = require('redis');

const { values: options } = parseArgs({ options: { port: { type: 'string' }, redis: { type: 'string' } } });

const publisher = createClient({ url: options.redis });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const wss = new WebSocketServer({ host: '127.0.0.1', port: Number(options.port) });

wss.on('connection', (ws) => {
  ws.on('error', () => {});
  ws.on('message', (data) => publisher.publish('room', data.toString()));
});

await subscriber.subscribe('room', (message) => {
  for (const client of wss.clients) {
    if (client.readyState === WebSocket.OPEN) client.send(message);
  }
});
