"""Keys of a hop: two directions, a new key every 2^22 counters, a replay window.

    PRK        = HKDF-Extract(salt: none, secret)                             RFC 5869, SHA-256
    chain 0    = HKDF-Expand(PRK, label of the direction, 32)
    key, IV, next chain of epoch e = HKDF-Expand(chain e, "epoch", 32 + 12 + 32)

The epoch is the counter without its low 22 bits, so nobody has to announce a rekey: whoever sends
counts on, at the latest after EPOCH_S from the next multiple of 2^22, and whoever receives follows.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from conflux.api import Buffer

TAG_BYTES = 16
SECRET_BYTES = 32
COUNTER_BYTES = 6
EPOCH_SHIFT = 22
"""2^22 messages of 65,535 bytes are 2^34 AES blocks, half of what one key may seal."""
EPOCH_S = 120.0
"""The longest that one key seals. Idle tethers keep theirs."""
OLD_KEY_S = 5.0
"""How long the previous key opens what was late."""

WINDOW = 65_536
_RING_BYTES = WINDOW // 8 + 1

_KEY_BYTES, _IV_BYTES, _CHAIN_BYTES = 32, 12, 32
_LABELS = (b"conflux udp 1 from offerer", b"conflux udp 1 from answerer")
_EPOCH_LABEL = b"conflux udp 1 epoch"


def derive(secret: bytes, *, is_offerer: bool) -> tuple[Sealer, Opener]:
    """The two directions of one end. *secret* is SECRET_BYTES that only the two ends know."""
    if len(secret) != SECRET_BYTES:
        msg = f"a tether's secret has {SECRET_BYTES} bytes, not {len(secret)}"
        raise ValueError(msg)
    extract = hmac.HMAC(bytes(hashes.SHA256.digest_size), hashes.SHA256())
    extract.update(secret)
    prk = extract.finalize()
    offerer, answerer = (_expand(prk, label, _CHAIN_BYTES) for label in _LABELS)
    if is_offerer:
        return Sealer(offerer), Opener(answerer)
    return Sealer(answerer), Opener(offerer)


class _Epoch:
    """One key with its IV, and the chain that the next one comes from."""

    __slots__ = ("chain", "iv", "key", "number")

    def __init__(self, number: int, chain: bytes) -> None:
        material = _expand(chain, _EPOCH_LABEL, _KEY_BYTES + _IV_BYTES + _CHAIN_BYTES)
        self.number = number
        self.key = AESGCM(material[:_KEY_BYTES])
        self.iv = int.from_bytes(material[_KEY_BYTES:-_CHAIN_BYTES], "big")
        self.chain = material[-_CHAIN_BYTES:]

    def next(self) -> _Epoch:
        return _Epoch(self.number + 1, self.chain)

    def nonce(self, counter: int) -> bytes:
        return (self.iv ^ counter).to_bytes(_IV_BYTES, "big")


class Sealer:
    """Counts and hands out keys. A counter is used once, in this direction and epoch."""

    __slots__ = ("_counter", "_ends", "_epoch", "_last")

    def __init__(self, chain: bytes) -> None:
        self._epoch = _Epoch(0, chain)
        self._counter = 0
        self._last = (1 << EPOCH_SHIFT) - 1
        self._ends: float | None = None

    def next(self, now: float) -> tuple[bytes, AESGCM, bytes]:
        """Return (counter as on the wire, key, nonce) for one message.

        The counters last for two centuries of a new key every EPOCH_S.
        """
        if self._counter >= self._last or (self._ends is not None and now >= self._ends):
            self._turn(now)
        elif self._ends is None:
            self._ends = now + EPOCH_S
        self._counter += 1
        return (
            self._counter.to_bytes(COUNTER_BYTES, "big"),
            self._epoch.key,
            self._epoch.nonce(self._counter),
        )

    def _turn(self, now: float) -> None:
        self._epoch = self._epoch.next()
        self._counter = (self._epoch.number << EPOCH_SHIFT) - 1
        self._last = self._counter + (1 << EPOCH_SHIFT)
        self._ends = now + EPOCH_S


class Opener:
    """Opens each message once. Noise changes nothing: not the window, not the epoch."""

    __slots__ = (
        "_current", "_highest", "_next", "_old", "_old_ends", "_ring", "forged", "replayed",
    )  # fmt: skip

    def __init__(self, chain: bytes) -> None:
        self._current = _Epoch(0, chain)
        self._next: _Epoch | None = None
        self._old: _Epoch | None = None
        self._old_ends = 0.0
        self._highest = 0
        self._ring = bytearray(_RING_BYTES)
        self.forged = 0
        """Messages whose tag was wrong, or whose key is out of reach."""
        self.replayed = 0

    @property
    def highest(self) -> int:
        """The highest counter of a genuine message."""
        return self._highest

    def seen(self, counter: int) -> bool:
        """Whether *counter* came before, or is too old (or zero) to tell."""
        if counter > self._highest:
            return False
        if counter <= self._highest - WINDOW or counter == 0:
            return True
        return bool(self._ring[(counter >> 3) % _RING_BYTES] & 1 << (counter & 7))

    def open_into(
        self, counter: int, header: Buffer, sealed: Buffer, out: memoryview, now: float
    ) -> int:
        """Open *sealed* into *out*; return the size, or -1 for what is a replay or a forgery."""
        size = len(sealed) - TAG_BYTES
        if self.seen(counter):
            self.replayed += 1
            return -1
        epoch = self._reach(counter >> EPOCH_SHIFT, now)
        if epoch is None or size < 0:
            self.forged += 1
            return -1
        try:
            epoch.key.decrypt_into(epoch.nonce(counter), sealed, header, out[:size])
        except InvalidTag:
            self.forged += 1
            return -1
        if epoch is self._next:
            self._turn(epoch, now)
        self._mark(counter)
        return size

    def _reach(self, number: int, now: float) -> _Epoch | None:
        current = self._current
        if number == current.number:
            return current
        if number == current.number + 1:
            if self._next is None:
                self._next = current.next()
            return self._next
        if self._old is not None and number == self._old.number and now < self._old_ends:
            return self._old
        return None

    def _turn(self, epoch: _Epoch, now: float) -> None:
        self._old, self._old_ends = self._current, now + OLD_KEY_S
        self._current, self._next = epoch, None

    def forget_old(self, now: float) -> None:
        """Drop the previous key once its time is up."""
        if self._old is not None and now >= self._old_ends:
            self._old = None

    def _mark(self, counter: int) -> None:
        """Remember *counter* in a ring of bits (RFC 6479)."""
        block = counter >> 3
        if counter > self._highest:
            ahead = block - (self._highest >> 3)
            if ahead >= _RING_BYTES:
                self._ring = bytearray(_RING_BYTES)
            else:
                for passed in range(block - ahead + 1, block + 1):
                    self._ring[passed % _RING_BYTES] = 0
            self._highest = counter
        self._ring[block % _RING_BYTES] |= 1 << (counter & 7)


def _expand(key: bytes, label: bytes, size: int) -> bytes:
    return HKDFExpand(algorithm=hashes.SHA256(), length=size, info=label).derive(key)
