"""`unmask` for tests of many commands: each a process of its own, forked from one that has imported torch already.

Importing costs several seconds a command, most of what a small one takes. What the process is asked for, its folder,
environment, input and outputs are those of the command that was typed; its exit code is handed back.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"x"], [0, 1, 2])
    server.sendall(json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode())
    server.shutdown(socket.SHUT_WR)
    sys.exit(int(server.recv(16) or 1))
"""


@contextmanager
def forked_commands(folder):
    """A folder for PATH, with an `unmask` in it that works as long as this is open."""
    address, client = str(folder / "socket"), folder / "bin" / "unmask"
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    command = [sys.executable, "-m", "tests.forked_commands", address]
    with subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE) as server:
        assert server.stdout.readline() == b"ready\n"
        yield client.parent
        server.terminate()


def serve(address):
    """Fork a process for each that asks; returns in these, with what it is to run."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        os.write(1, b"ready\n")
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, files, _, _ = socket.recv_fds(connection, 1, 3)
    asked = json.loads(b"".join(iter(lambda: connection.recv(2**16), b"")))
    command = os.fork()
    if command:
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        connection.sendall(str(code if code >= 0 else 128 - code).encode())
        os._exit(0)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    connection.close()
    return asked


if __name__ == "__main__":
    import unmask.encoder  # noqa: F401  torch, transformers, peft
    from unmask.cli.main import main

    sys.argv, folder, environment = serve(sys.argv[1])
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(main())
