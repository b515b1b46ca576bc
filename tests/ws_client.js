// npm ws at the end of a pipe: a line of JSON in is a command, a line of JSON out is something that happened.
// Usage: node ws_client.js ws://127.0.0.1:8080/room

const readline = require("node:readline");
const WebSocket = require("ws");

const socket = new WebSocket(process.argv[2]);

function tell(what) {
  process.stdout.write(JSON.stringify(what) + "\n");
}

socket.on("open", () => tell({ open: true }));
socket.on("message", (data, isBinary) =>
  tell(isBinary ? { binary: data.toString("hex") } : { text: data.toString() }),
);
socket.on("pong", (data) => tell({ pong: data.toString("hex") }));
socket.on("error", (error) => tell({ error: error.message }));
socket.on("close", (code, reason) => {
  tell({ closed: code, reason: reason.toString() });
  commands.close();
});

const commands = readline.createInterface({ input: process.stdin });
commands.on("line", (line) => {
  const command = JSON.parse(line);
  if ("text" in command) socket.send(command.text);
  if ("binary" in command) socket.send(Buffer.from(command.binary, "hex"));
  if ("ping" in command) socket.ping(Buffer.from(command.ping, "hex"));
  if ("close" in command) socket.close(command.close, command.reason);
});
