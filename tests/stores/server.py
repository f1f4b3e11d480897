"""A Redis server of our own: on a free port, in a folder of its own, ended by its process."""

import shutil
import signal
import socket
import subprocess
import time
from importlib.util import find_spec

import pytest


class Server:
    """redis-server in a folder of its own, which survives its being killed."""

    def __init__(self, folder, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.folder = folder
        self.options = options
        self.process = None
        self.start()

    def url(self, prefix):
        return f"redis://127.0.0.1:{self.port}/0?prefix={prefix}"

    def start(self):
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        command += ["--save", "", *self.options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(2000):
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as client:
                    client.sendall(b"PING\r\n")
                    if client.recv(5) == b"+PONG":  # not while it loads its data
                        return
            except OSError:
                assert self.process.poll() is None, "redis-server ended at once"
            time.sleep(0.01)
        raise AssertionError("redis-server does not answer")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def client(self):
        import redis

        return redis.Redis(port=self.port)


def start_redis(folder, *options):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    if find_spec("redis") is None:
        pytest.skip("redis-py is not installed")
    return Server(folder, *options)
