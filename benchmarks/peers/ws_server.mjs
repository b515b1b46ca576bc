// npm `ws`, the usual WebSocket server of Node.js. It unmasks large messages with `bufferutil` if that is
// installed, as its README advises; the benchmark's install command does so.
//
// Started as: node ws_server.mjs --port P --mode echo|broadcast [--compression] [--tls-cert F --tls-key F]
// `ws` is looked for in ./node_modules and then along NODE_PATH, which `import` alone would not read.

import { readFileSync } from 'node:fs';
import { createServer as createTlsServer } from 'node:https';
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

const { WebSocket, WebSocketServer } = createRequire(process.cwd() + '/')('ws');

const { values: options } = parseArgs({
  options: {
    port: { type: 'string' },
    mode: { type: 'string' },
    compression: { type: 'boolean', default: false },
    'tls-cert': { type: 'string' },
    'tls-key': { type: 'string' },
  },
});

// Without TLS, ws makes its own HTTP server, as in its README; that answers other requests with 426.
const where = { port: Number(options.port), host: '127.0.0.1' };
const server = options['tls-cert']
  ? createTlsServer({ cert: readFileSync(options['tls-cert']), key: readFileSync(options['tls-key']) })
  : null;
const wss = new WebSocketServer({ ...(server ? { server } : where), perMessageDeflate: options.compression });

wss.on('connection', (ws) => {
  ws.on('error', () => {});
  if (options.mode === 'echo') {
    ws.on('message', (data, isBinary) => ws.send(data, { binary: isBinary }));
  } else {
    ws.on('message', (data, isBinary) => {
      for (const client of wss.clients) {
        if (client.readyState === WebSocket.OPEN) client.send(data, { binary: isBinary });
      }
    });
  }
});

server?.listen(where);
