// Clients of a room, filled in with this server's address: each can be pasted and run as it is.

const s = (secure) => (secure ? "s" : "");

/** A worker of a group with curl: it waits for a job, and acknowledges it. */
export const shellWorker = (secure, host, target) => `room='http${s(secure)}://${host}${target}'
head=$(curl -s -D - -o job.txt "$room&wait=30" | tr -d '\\r')
cat job.txt; echo
id=$(echo "$head" | sed -n 's/^Rawws-Id: //p') lease=$(echo "$head" | sed -n 's/^Rawws-Lease: //p')
[ -z "$id" ] || curl -X POST "$room&ack=$id&lease=$lease"`;

export const SNIPPETS = {
  browser: (secure, host, path) => `const ws = new WebSocket("ws${s(secure)}://${host}${path}")
ws.onmessage = (event) => console.log(event.data)
ws.onopen = () => ws.send("hello from a browser")`,

  curl: (secure, host, path) => `curl http${s(secure)}://${host}${path} -H 'Content-Type: text/plain' -d 'hello from curl'
curl 'http${s(secure)}://${host}${path}?last=10'
curl -N -m 5 -H 'Accept: text/event-stream' http${s(secure)}://${host}${path}`,

  Python: (secure, host, path) => `# pip install websockets
from websockets.sync.client import connect

with connect("ws${s(secure)}://${host}${path}") as ws:
    ws.send("hello from Python")
    for message in ws:
        print(message, flush=True)`,

  Node: (secure, host, path) => `// npm install ws
const WebSocket = require("ws")
const ws = new WebSocket("ws${s(secure)}://${host}${path}")
ws.on("message", (data) => console.log(data.toString()))
ws.on("open", () => ws.send("hello from Node"))`,
};
