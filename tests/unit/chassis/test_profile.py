from pathlib import Path

import pytest

from lineal.profile import Profile, ProfileError


@pytest.fixture(autouse=True)
def no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINEAL_PROFILE", raising=False)


def test_without_a_profile_all_is_on_loopback() -> None:
    profile = Profile.load()
    assert profile.address("lineage") == "127.0.0.1:7401"
    assert profile.address("temporal") == "127.0.0.1:7233"


def test_a_host_has_the_services_on_their_usual_ports() -> None:
    assert Profile.load("ml.example.org").address("serving") == "ml.example.org:7406"
    assert Profile.load("[::1]").address("serving") == "[::1]:7406"


def test_one_address_stands_for_all_services_but_temporal() -> None:
    profile = Profile.load("ml.example.org:443")
    assert profile.address("serving") == "ml.example.org:443"
    assert profile.address("temporal") == "ml.example.org:7233"


def test_a_profile_is_read_as_it_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "profile.yaml"
    Profile({"ingest": "127.0.0.1:1"}).save(file)
    assert Profile.load(file).address("ingest") == "127.0.0.1:1"
    assert Profile.load(file).address("lineage") == "127.0.0.1:7401"
    monkeypatch.setenv("LINEAL_PROFILE", str(file))
    assert Profile.load().address("ingest") == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "does not exist"),
        ("- a", "mapping"),
        ("ingst: h:1", "unknown services: ingst"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_profile_that_cannot_be_read_says_why(tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "p.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ProfileError, match=says):
        Profile.load(file)
    with pytest.raises(ProfileError, match="serving"):
        Profile({}).address("serving")
