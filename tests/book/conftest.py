"""What tests of drawings share."""

import pytest
from browser import browser_session


@pytest.fixture(scope="module")
def browser():
    """A browser for all tests of a module, none of which may have asked the network for anything."""
    with browser_session() as running:
        yield running
        assert not running.foreign_requests
