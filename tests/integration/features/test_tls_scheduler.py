import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dask import distributed

from chassis.settings import SettingsInvalid
from services.features.compute import Compute
from services.features.settings import Settings
from tests.integration.features.building import planned


def certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dask")])
    now = datetime.datetime.now(datetime.UTC)
    until = now + datetime.timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "cert.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return pem, private


@pytest.mark.timeout(120)
def test_a_scheduler_behind_tls_builds(tmp_path: Path) -> None:
    pem, key = certificate(tmp_path)
    files = {name: str(pem) for name in ("tls_ca_file", "tls_client_cert", "tls_scheduler_cert", "tls_worker_cert")}
    files |= {name: str(key) for name in ("tls_client_key", "tls_scheduler_key", "tls_worker_key")}
    security = distributed.Security(require_encryption=True, **files)  # type: ignore[no-untyped-call]
    plan = planned(tmp_path, 100)
    with distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, protocol="tls://", host="127.0.0.1", dashboard_address="127.0.0.1:0", security=security
    ) as cluster:
        settings = Settings(
            data_dir=tmp_path,
            artifacts_url=str(tmp_path / "artifacts"),
            dask_scheduler=cluster.scheduler_address,
            dask_tls_ca=pem,
            dask_tls_certificate=pem,
            dask_tls_key=key,
        )
        compute = Compute(settings)
        try:
            built = compute.build(plan, lambda stage, done, steps: None)
        finally:
            compute.cluster.close()
    assert cluster.scheduler_address.startswith("tls://")
    assert sum(rows for _, rows in built.files) > 0


def test_tls_files_come_together(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="together"):
        Settings(data_dir=tmp_path, dask_tls_ca=tmp_path / "cert.pem")
