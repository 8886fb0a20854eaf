"""A process without descriptors, for tests of channels as for those of stages."""

from tests.stages.conftest import exhausted as exhausted
