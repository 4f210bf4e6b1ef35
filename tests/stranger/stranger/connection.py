"""A connection: messages and chunks (§13.1), login (§13.2), requests (§13.4)."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import websocket

from .codec import Malformed, decode
from .crypto import require
from .frames import (
    CLIENT_FRAME, PROTOCOL_VERSION, SERVICE_FRAME, Challenge, ConfirmLife, Generation, Goodbye, Hello, Login,
    LoginStatement, Ping, Ready, Refused, RefusedAnswer, Request, Response,
)  # fmt: skip
from .identity import OwnDevice

MESSAGE_BYTES = 262_144
MORE, LAST = 0xFE, 0xFF
PING_S = 15
ANSWER_S = 30


@dataclass
class Life:
    """What a device keeps of its service (§13.2, §13.5)."""

    number: int = 0
    token: bytes = bytes(16)
    service_key: bytes | None = None
    generations: dict[int, Generation] = field(default_factory=dict)


class Connection:
    """Logged in once it is made. Frames that the service sends unasked go to the handler of their kind."""

    def __init__(self, url: str, own: OwnDevice, life: Life):
        self.url, self.life, self.handlers = url, life, dict[type, Callable[[Any], None]]()
        self.answers: dict[int, Any] = {}
        self.next_id, self.chunks, self.pinged = 1, b"", time.monotonic()
        # An Origin header would name a web page.
        self.socket = websocket.create_connection(url + "/v1", timeout=ANSWER_S, suppress_origin=True)
        self.send(Hello(versions=[PROTOCOL_VERSION], credential=own.credential.encode()))
        challenge = self.expect(Challenge)
        self.check_service(challenge)
        said = dict(origin=url, life=life.number, life_token=life.token)
        statement = LoginStatement(nonce=challenge.nonce, service_key=challenge.service_key, device=own.device, **said)
        signature = own.device_key.sign("conclave 1.0 service login", statement.encode())
        self.send(Login(signature=signature, **said))
        self.ready: Ready = self.expect(Ready)
        self.since = time.monotonic()
        if self.ready.life > life.number:
            life.number, life.token = self.ready.life, self.ready.next
        self.ask(ConfirmLife())

    def check_service(self, challenge: Challenge) -> None:
        self.generation, key = challenge.generation, challenge.service_key
        self.generation.check(key)
        self.life.service_key = self.life.service_key or key
        require(self.life.service_key == key, "the service's key is the one of the first login")
        known = self.life.generations.setdefault(self.generation.number, self.generation)
        require(known == self.generation, "one generation of a number")

    def now_ms(self) -> int:
        """The service's time."""
        return self.ready.now + int((time.monotonic() - self.since) * 1000)

    def send(self, frame: Any) -> None:
        data = CLIENT_FRAME.encode(frame)
        if len(data) <= MESSAGE_BYTES:
            self.socket.send_binary(data)
            return
        room = MESSAGE_BYTES - 1
        chunks = [data[at : at + room] for at in range(0, len(data), room)]
        for chunk in chunks[:-1]:
            self.socket.send_binary(bytes([MORE]) + chunk)
        self.socket.send_binary(bytes([LAST]) + chunks[-1])

    def receive(self) -> Any:
        while True:
            message = self.socket.recv()
            if not isinstance(message, bytes) or not message:
                raise ConnectionError("the connection has ended")
            if message[0] in (MORE, LAST):
                self.chunks += message[1:]
                if message[0] == MORE:
                    continue
                message, self.chunks = self.chunks, b""
            frame = decode(SERVICE_FRAME, message)
            if isinstance(frame, Goodbye):
                raise ConnectionError(f"goodbye: {frame.why}")
            return frame

    def expect(self, kind: type) -> Any:
        frame = self.receive()
        if not isinstance(frame, kind):
            raise Malformed(f"{type(frame).__name__} instead of {kind.__name__}")
        return frame

    def pump(self, until: Callable[[], bool], seconds: float = ANSWER_S) -> bool:
        """Takes frames until something holds or the time is over; whether it holds."""
        end = time.monotonic() + seconds
        while not until():
            now = time.monotonic()
            if now >= end:
                return False
            if now - self.pinged > PING_S:
                self.send(Ping())
                self.pinged = now
            self.socket.settimeout(min(end - now, 0.1))
            try:
                frame = self.receive()
            except websocket.WebSocketTimeoutException:
                continue
            if isinstance(frame, Response):
                self.answers[frame.id] = frame.answer
            elif type(frame) in self.handlers:
                self.handlers[type(frame)](frame)
        return True

    def ask(self, body: Any) -> Any:
        """A request's answer. A refusal is raised."""
        number, self.next_id = self.next_id, self.next_id + 1
        self.send(Request(id=number, body=body))
        if not self.pump(lambda: number in self.answers):
            raise TimeoutError(f"no answer to {type(body).__name__}")
        answer = self.answers.pop(number)
        if isinstance(answer, RefusedAnswer):
            refusal: Refused = answer.refusal
            raise refusal
        return answer

    def close(self) -> None:
        """With a close frame (§13.6)."""
        self.socket.close()
