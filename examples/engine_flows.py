"""Additions of a serving engine to its KV transfer: a flow per request, announced to the agent before the data.

    python examples/engine_flows.py HOST PORT [--socket /run/mfs/agent.sock]

Sends four "layers" of one request's KV cache over TCP. With an agent on this server every packet is stamped with the
request's deadline and with the layer that is being computed; without one the data goes out unstamped.
"""

from __future__ import annotations

import argparse
import socket

from host_agent import AGENT_SOCKET, AgentClient, AgentGoneError, Stage

LAYERS = 4
LAYER_BYTES = 64 * 1024


def main() -> None:
    """Send four layers to a receiver, through an agent if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--socket", default=AGENT_SOCKET, help="of the agent")
    arguments = parser.parse_args()
    with socket.create_connection((arguments.host, arguments.port)) as connection:
        try:
            with AgentClient(arguments.socket) as agent:
                flow = agent.open(
                    connection,
                    batch=7,
                    stage=Stage.P2D,
                    slack_us=2_000_000,  # the request's first token is due in two seconds
                    total_bytes=LAYERS * LAYER_BYTES,
                    target_layer=LAYERS,
                    message_bytes=LAYER_BYTES,  # where a layer begins, the flow may rise
                )
                for layer in range(LAYERS):
                    agent.advance(batch=7, layer=layer)  # this layer is being computed
                    connection.sendall(bytes(LAYER_BYTES))
                agent.advance(batch=7, layer=LAYERS)
                wait_for_receiver(
                    connection
                )  # what still waits in the socket's buffer is stamped while the flow is open
                flow.close()
                print("sent, stamped")
        except AgentGoneError as error:
            connection.sendall(bytes(LAYERS * LAYER_BYTES))
            wait_for_receiver(connection)
            print(f"sent, not stamped: {error}")


def wait_for_receiver(connection: socket.socket) -> None:
    """Say that nothing follows, and return when the receiver, which has everything, closes the connection."""
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(1024):
        pass


if __name__ == "__main__":
    main()
