// A worker with npm's ws. Usage: node worker.js NAME PORT MAX LOG

const fs = require("node:fs");
const WebSocket = require("ws");

const [name, port, max, log] = process.argv.slice(2);

function connect() {
  fs.appendFileSync(log, `${name} open\n`);
  const socket = new WebSocket(`ws://127.0.0.1:${port}/jobs?group=g&ack=${process.env.ACK || 60}&tries=50&max=${max}`, "rawws.id.v1");
  socket.on("message", (data) => {
    const head = JSON.parse(data.toString().split("\n")[0]);
    if (!head.id) return;
    fs.appendFileSync(log, `${name} get ${head.id} ${head.try}\n`);
    setTimeout(() => {
      if (socket.readyState !== WebSocket.OPEN) return;
      fs.appendFileSync(log, `${name} end ${head.id} ${head.try}\n`);
      socket.send(JSON.stringify({ ack: head.id }));
    }, 2);
  });
  socket.on("error", () => {});
  socket.on("close", () => setTimeout(connect, 50));
}

connect();
