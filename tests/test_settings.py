"""Settings from the environment."""

from __future__ import annotations

import pytest

from serving.errors import SettingsInvalid
from serving.settings import Settings, settings_from


def test_an_empty_environment_gives_the_defaults() -> None:
    """Nothing has to be set."""
    assert settings_from({}) == Settings()


def test_every_wrong_value_is_named_at_once() -> None:
    """One start tells all that is wrong, with what was expected."""
    with pytest.raises(SettingsInvalid) as caught:
        settings_from({"PANTRY_WORKERS": "0", "PANTRY_THREADS": "many", "PANTRY_DRAIN_SECONDS": "5"})
    assert str(caught.value) == (
        "PANTRY_WORKERS is '0', expected a whole number of at least 1; "
        "PANTRY_THREADS is 'many', expected a whole number of at least 1"
    )
