"""The pages of needs: `deviceflow worker --listen`."""

from deviceflow.pages._needs import NeedPages
from deviceflow.pages._server import Answer, PageRequest, PageServer

__all__ = ["Answer", "NeedPages", "PageRequest", "PageServer"]
