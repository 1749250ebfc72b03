"""A service: it comes up, says so, says that it lives, and ends when it is told to."""

import os
import signal
import socket


def tell(words: bytes) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.sendto(words, os.environ["NOTIFY_SOCKET"])


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
tell(b"READY=1")
while not signal.sigtimedwait([signal.SIGTERM], 5):
    tell(b"WATCHDOG=1")
