// The other side of tests/it/websocket_interop.rs: one WebSocket of the library `ws`.
//
//   node peer.mjs send URL [PROTOCOL]      sends the messages of standard input, then closes with 1000
//   node peer.mjs listen URL [PROTOCOL]    prints messages
//
// A message is a line of JSON, in and out: {"text": "..."} or {"binary": "<base64>"}. Beside messages
// it prints {"open": true, "protocol": "..."}, {"closed": code, "reason": "..."}, and for a handshake
// that is answered otherwise {"status": 403, "body": "..."}.
import { createInterface } from "node:readline";
import WebSocket from "ws";

const [mode, url, protocol] = process.argv.slice(2);
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
const socket = new WebSocket(url, protocol ? [protocol] : []);

socket.on("open", async () => {
  say({ open: true, protocol: socket.protocol });
  if (mode !== "send") return;
  for await (const line of createInterface({ input: process.stdin })) {
    const { text, binary } = JSON.parse(line);
    socket.send(text ?? Buffer.from(binary, "base64"));
  }
  socket.close(1000);
});
socket.on("message", (data, isBinary) =>
  say(isBinary ? { binary: data.toString("base64") } : { text: data.toString() }));
socket.on("close", (code, reason) => say({ closed: code, reason: reason.toString() }));
socket.on("error", (error) => say({ error: error.message }));
socket.on("unexpected-response", (_, answer) => {
  let body = "";
  answer.on("data", (data) => (body += data));
  answer.on("end", () => say({ status: answer.statusCode, body }));
});
