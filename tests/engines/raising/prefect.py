"""A flow that lets the exception out, with the code and the link on it."""

import os

import prefect

from deviceflow import Client, OAuth


@prefect.flow(persist_result=True, retries=1)
def raising() -> None:
    with Client(os.environ["DEVICEFLOW_STORE"]) as client:
        robot = OAuth(issuer=os.environ["ISSUER"], client_id="robot")
        client.get_token("raising", robot, purpose="to raise", mint="now")


if __name__ == "__main__":
    raising()
