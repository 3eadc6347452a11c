from pathlib import Path

import pytest
from pydantic_settings import SettingsConfigDict

from chassis.settings import ServiceSettings, SettingsInvalid


class IngestSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="LINEAL_INGEST_")

    batch_rows: int = 10


def test_the_defaults_are_loopback_and_the_usual_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LINEAL_DATA_DIR", raising=False)
    settings = IngestSettings()
    assert (settings.host, settings.port) == ("127.0.0.1", 7402)
    assert settings.service_dir == Path("data/ingest")
    assert settings.database == f"sqlite:///{Path('data/ingest/ingest.db').resolve()}"
    assert settings.artifacts == str(Path("data/artifacts").resolve())


def test_the_environment_sets_own_and_shared_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAL_INGEST_PORT", "9000")
    monkeypatch.setenv("LINEAL_INGEST_BATCH_ROWS", "7")
    monkeypatch.setenv("LINEAL_INGEST_DATABASE_URL", "postgresql+psycopg://u@h/d")
    monkeypatch.setenv("LINEAL_DATA_DIR", "/srv/lineal")
    monkeypatch.setenv("LINEAL_DEV", "1")
    settings = IngestSettings()
    assert (settings.port, settings.batch_rows, settings.dev) == (9000, 7, True)
    assert settings.database == "postgresql+psycopg://u@h/d"
    assert settings.service_dir == Path("/srv/lineal/ingest")


def test_tests_name_the_fields(tmp_path: Path) -> None:
    settings = IngestSettings(port=0, data_dir=tmp_path, artifacts_url="s3://bucket/x")
    assert (settings.port, settings.data_dir, settings.artifacts) == (0, tmp_path, "s3://bucket/x")


def test_a_setting_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEAL_INGEST_PORT", "abc")
    monkeypatch.setenv("LINEAL_DEV", "perhaps")
    with pytest.raises(SettingsInvalid) as raised:
        IngestSettings()
    port, dev = sorted(str(raised.value).splitlines(), reverse=True)
    assert port.startswith("ingest: LINEAL_INGEST_PORT=abc cannot be used: ")
    assert dev.startswith("ingest: LINEAL_DEV=perhaps cannot be used: ")
