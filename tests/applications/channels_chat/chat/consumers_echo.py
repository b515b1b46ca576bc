"""Part 2 of the tutorial, its first consumer: each client hears itself."""

import json

from channels.generic.websocket import WebsocketConsumer


class ChatConsumer(WebsocketConsumer):
    def connect(self):
        self.accept()

    def disconnect(self, close_code):
        pass

    def receive(self, text_data):
        self.send(text_data=json.dumps({"message": json.loads(text_data)["message"]}))
