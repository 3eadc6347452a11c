"""Read tables of the registry: lists of models, bundles, endpoints, sagas and replicas."""

from collections.abc import Sequence

from google.protobuf.message import Message
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from chassis.events import Event
from chassis.paging import last_key, last_position, page_size, page_token
from lineal.api.registry.v1 import events_pb2 as events
from lineal.api.registry.v1.endpoint_pb2 import Saga
from lineal.api.registry.v1.model_pb2 import Bundle, BundleState, Model
from lineal.api.registry.v1.registry_service_pb2 import (
    ListBundlesRequest,
    ListEndpointsRequest,
    ListModelsRequest,
    ListModelsResponse,
    ListSagasRequest,
)
from services.registry import bundle as bundles
from services.registry.views import evolve_bundle, evolve_saga, requested_saga

_metadata = MetaData()
_models = Table(
    "models",
    _metadata,
    Column("name", String, primary_key=True),
    Column("body", LargeBinary),
    Column("retired", Boolean, nullable=False),
)
_bundles = Table(
    "bundles",
    _metadata,
    Column("digest", String, primary_key=True),
    Column("model", String, index=True),
    Column("register_position", BigInteger, index=True),
    Column("body", LargeBinary),
)
_endpoints = Table(
    "endpoints",
    _metadata,
    Column("name", String, primary_key=True),
    Column("model", String, nullable=False, index=True),
    Column("champion", String, nullable=False),
    Column("retired", Boolean, nullable=False),
)
_sagas = Table(
    "sagas",
    _metadata,
    Column("saga_id", String, primary_key=True),
    Column("endpoint", String, index=True),
    Column("request_position", BigInteger, index=True),
    Column("body", LargeBinary),
)
_generations = Table(
    "generations",
    _metadata,
    Column("replica_id", String, primary_key=True),
    Column("endpoint", String, primary_key=True),
    Column("generation", Integer, nullable=False),
)


class RegistryTables:
    """The projection behind the registry's list calls."""

    name = "registry"
    version = 3
    metadata = _metadata
    types: Sequence[type[Message]] = (
        events.ModelRegistered,
        events.ModelRetired,
        events.BundleRegistered,
        events.BundleSigned,
        events.GatesEvaluated,
        events.BundleApproved,
        events.BundleRejected,
        events.EndpointRegistered,
        events.EndpointRetired,
        events.ArmsChanged,
        events.SagaRequested,
        events.SagaAdvanced,
        events.SagaFinished,
        events.SagaArchived,
        events.ReplicaJoined,
        events.GenerationApplied,
        events.ReplicaLeft,
    )

    def apply(self, connection: Connection, event: Event) -> None:
        """Change the tables by one event."""
        match event.message:
            case events.ModelRegistered() as message:
                connection.execute(delete(_models).where(_models.c.name == message.model.name))
                body = message.model.SerializeToString(deterministic=True)
                connection.execute(insert(_models).values(name=message.model.name, body=body, retired=False))
            case events.ModelRetired(model=name):
                connection.execute(update(_models).where(_models.c.name == name).values(retired=True))
            case (
                events.BundleRegistered()
                | events.BundleSigned()
                | events.GatesEvaluated()
                | events.BundleApproved()
                | events.BundleRejected()
            ):
                _apply_bundle(connection, event)
            case events.EndpointRegistered() as message:
                name, standing = message.endpoint.name, {"model": message.endpoint.model, "retired": False}
                known = update(_endpoints).where(_endpoints.c.name == name).values(standing)
                if connection.execute(known).rowcount == 0:
                    connection.execute(insert(_endpoints).values(name=name, champion="", **standing))
            case events.EndpointRetired(endpoint=name):
                connection.execute(update(_endpoints).where(_endpoints.c.name == name).values(retired=True))
            case events.ArmsChanged() as message:
                champion = next((arm.bundle_digest for arm in message.arms if arm.role == 1), "")
                connection.execute(
                    update(_endpoints).where(_endpoints.c.name == message.endpoint).values(champion=champion)
                )
            case events.SagaRequested() as message:
                saga = requested_saga(event, message)
                connection.execute(
                    insert(_sagas).values(
                        saga_id=saga.saga_id,
                        endpoint=saga.endpoint,
                        request_position=event.position,
                        body=saga.SerializeToString(deterministic=True),
                    )
                )
            case events.SagaAdvanced() | events.SagaFinished() | events.SagaArchived() as message:
                _apply_saga(connection, event, message.saga_id)
            case events.GenerationApplied() as message:
                _forget(connection, message.replica_id, message.endpoint)
                connection.execute(
                    insert(_generations).values(
                        replica_id=message.replica_id, endpoint=message.endpoint, generation=message.generation
                    )
                )
            case events.ReplicaJoined() as message:
                _forget(connection, message.replica_id)
                # A replica without an endpoint is known too.
                connection.execute(
                    insert(_generations).values(replica_id=message.replica_id, endpoint="", generation=0)
                )
            case events.ReplicaLeft() as message:
                _forget(connection, message.replica_id)


def models(connection: Connection, request: ListModelsRequest) -> ListModelsResponse:
    """Return a page of models by name, and the token of the next."""
    query = select(_models).where(_models.c.name > last_key(request.page_token)).order_by(_models.c.name)
    if not request.include_retired:
        query = query.where(~_models.c.retired)
    size = page_size(request.page_size)
    rows = connection.execute(query.limit(size + 1)).all()
    return ListModelsResponse(
        models=[Model.FromString(row.body) for row in rows[:size]],
        next_page_token=page_token(rows[size - 1].name) if len(rows) > size else "",
        retired=[row.name for row in rows[:size] if row.retired],
    )


def users_of_model(connection: Connection, name: str) -> list[str]:
    """Return the endpoints, not retired, of a model."""
    query = select(_endpoints.c.name).where(_endpoints.c.model == name, ~_endpoints.c.retired)
    return [f"endpoint {found!r}" for found in connection.execute(query.order_by(_endpoints.c.name)).scalars()]


def bundles_of(connection: Connection, request: ListBundlesRequest) -> tuple[list[Bundle], str]:
    """Return a page of bundles, newest first, and the token of the next."""
    query = select(_bundles.c.body, _bundles.c.register_position).where(
        _bundles.c.register_position < last_position(request.page_token)
    )
    if request.model:
        query = query.where(_bundles.c.model == request.model)
    size = page_size(request.page_size)
    rows = connection.execute(query.order_by(_bundles.c.register_position.desc()).limit(size + 1)).all()
    found = rows[:size]
    following = page_token(str(found[-1].register_position)) if len(rows) > len(found) else ""
    return [Bundle.FromString(row.body) for row in found], following


def unsigned(connection: Connection) -> list[str]:
    """Return the digests of the bundles without a signature that are not rejected, oldest first."""
    found = connection.execute(select(_bundles.c.body).order_by(_bundles.c.register_position)).scalars()
    bodies = (Bundle.FromString(body) for body in found)
    return [
        body.digest for body in bodies if not body.signature_digest and body.state != BundleState.BUNDLE_STATE_REJECTED
    ]


def digests_like(connection: Connection, beginning: str) -> list[str]:
    """Return at most two bundle digests that begin so."""
    query = select(_bundles.c.digest).where(_bundles.c.digest.startswith(beginning, autoescape=True)).limit(2)
    return list(connection.execute(query).scalars())


def endpoint_names(connection: Connection, request: ListEndpointsRequest) -> tuple[list[str], str]:
    """Return a page of names of endpoints, and the token of the next."""
    query = select(_endpoints.c.name).where(_endpoints.c.name > last_key(request.page_token))
    if not request.include_retired:
        query = query.where(~_endpoints.c.retired)
    size = page_size(request.page_size)
    rows = list(connection.execute(query.order_by(_endpoints.c.name).limit(size + 1)).scalars())
    found = rows[:size]
    return found, page_token(found[-1]) if len(rows) > len(found) else ""


def endpoints_with_champion(connection: Connection, digest: str) -> list[str]:
    """Return the endpoints whose champion a bundle is."""
    return list(connection.execute(select(_endpoints.c.name).where(_endpoints.c.champion == digest)).scalars())


def saga(connection: Connection, saga_id: str) -> Saga | None:
    """Return a saga with its steps, None when there is none of that id."""
    body = connection.execute(select(_sagas.c.body).where(_sagas.c.saga_id == saga_id)).scalar()
    return None if body is None else Saga.FromString(body)


def sagas_of(connection: Connection, request: ListSagasRequest) -> tuple[list[Saga], str]:
    """Return a page of sagas without steps, newest first, and the token of the next."""
    place = _sagas.c.request_position
    query = select(_sagas.c.body, place).where(place < last_position(request.page_token))
    if request.endpoint:
        query = query.where(_sagas.c.endpoint == request.endpoint)
    size = page_size(request.page_size)
    rows = connection.execute(query.order_by(place.desc()).limit(size + 1)).all()
    found = rows[:size]
    following = page_token(str(found[-1].request_position)) if len(rows) > len(found) else ""
    sagas = [Saga.FromString(row.body) for row in found]
    for listed in sagas:
        del listed.steps[:]
    return sagas, following


def replicas(connection: Connection) -> dict[str, dict[str, int]]:
    """Return the replicas that have joined and not left, with the generations that they have applied."""
    found: dict[str, dict[str, int]] = {}
    for row in connection.execute(select(_generations)):
        applied = found.setdefault(row.replica_id, {})
        if row.endpoint:
            applied[row.endpoint] = row.generation
    return found


def _apply_bundle(connection: Connection, event: Event) -> None:
    digest = event.stream.partition("/")[2]
    body = connection.execute(select(_bundles.c.body).where(_bundles.c.digest == digest)).scalar()
    view = Bundle() if body is None else Bundle.FromString(body)
    assert event.message is not None
    standing = bundles.BundleStanding(
        digest=view.digest,
        model=view.model,
        imported=not view.training_set_digest,
        state=view.state,
        approved=bool(view.decided_by) and view.state != BundleState.BUNDLE_STATE_REJECTED,
    )
    evolve_bundle(view, event)
    view.state = bundles.evolve(standing, event.message).state
    if body is None:
        connection.execute(insert(_bundles).values(digest=digest, model=view.model, register_position=event.position))
    connection.execute(
        update(_bundles).where(_bundles.c.digest == digest).values(body=view.SerializeToString(deterministic=True))
    )


def _apply_saga(connection: Connection, event: Event, saga_id: str) -> None:
    found = saga(connection, saga_id)
    if found is None:
        return
    evolve_saga(found, event)
    connection.execute(
        update(_sagas).where(_sagas.c.saga_id == saga_id).values(body=found.SerializeToString(deterministic=True))
    )


def _forget(connection: Connection, replica_id: str, endpoint: str | None = None) -> None:
    gone = delete(_generations).where(_generations.c.replica_id == replica_id)
    connection.execute(gone if endpoint is None else gone.where(_generations.c.endpoint == endpoint))
