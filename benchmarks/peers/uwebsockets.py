"""uWebSockets, the C++ server, through ``socketify`` from PyPI: its own topics do the broadcasting."""

from __future__ import annotations

from socketify import App, AppListenOptions, AppOptions, CompressOptions, OpCode, WebSocket

from benchmarks.peers.options import HOST, MAX_MESSAGE_BYTES, parse

ROOM = "room"


def main() -> None:
    options = parse()
    tls = AppOptions(key_file_name=options.tls_key, cert_file_name=options.tls_cert) if options.tls_cert else None
    app = App(tls)

    def join(ws: WebSocket) -> None:
        ws.subscribe(ROOM)

    def echo(ws: WebSocket, message: str | bytes, opcode: OpCode) -> None:
        ws.send(message, opcode)

    def relay(_ws: WebSocket, message: str | bytes, opcode: OpCode) -> None:
        app.publish(ROOM, message, opcode, options.compression)

    app.ws(
        "/*",
        {
            "compression": CompressOptions.SHARED_COMPRESSOR if options.compression else CompressOptions.DISABLED,
            "max_payload_length": MAX_MESSAGE_BYTES,
            # The default, 64 KiB, silently drops what a reader has not yet taken; a megabyte echo needs more.
            "max_backpressure": 4 * MAX_MESSAGE_BYTES,
            "idle_timeout": 0,
            "open": join if options.broadcast else (lambda _ws: None),
            "message": relay if options.broadcast else echo,
        },
    )
    app.listen(AppListenOptions(port=options.port, host=HOST))
    app.run()


main()
