"""What a deployment may set, by options or by environment variables ONECARD_…, and where things lie under the state
directory."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from cardcore.errors import SetupError

Fen = Annotated[int, Field(ge=0, lt=2**63)]
# What may be loaded in a day: in all, through one operator, at one terminal.
DAY_FEN, OPERATOR_FEN, TERMINAL_FEN = 5_000_000_000, 2_500_000_000, 50_000_000


class Settings(BaseSettings):
    """`state` holds `postgres/` (unless `dsn` names a server), `keys/` and the key file beside it. `token` is the URI
    of a PKCS#11 token that holds the keys themselves; `keys/` then has their list, quota and audit. `passphrase_file`
    holds what opens either, where it is not asked for; `anchor` is the store's, where it lies elsewhere. The quotas are
    what the desk may load in a day: in all, through one operator, at one terminal."""

    model_config = SettingsConfigDict(env_prefix="ONECARD_", extra="ignore")

    state: Path = Path("onecard-state")
    dsn: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8478
    clock: Path | None = None
    token: str | None = None
    passphrase_file: Path | None = None
    anchor: Path | None = None
    quota_fen: Fen = DAY_FEN
    operator_quota_fen: Fen = OPERATOR_FEN
    terminal_quota_fen: Fen = TERMINAL_FEN

    @property
    def keys(self) -> Path:
        return self.state / "keys"


def settings_with(**given: Path | str | int | None) -> Settings:
    """The environment's settings with the options that were given. Raises SetupError, naming what cannot be used."""
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]  # pydantic checks them
    except ValidationError as error:
        wrong = "; ".join(f"{one['loc'][0]}: {one['msg']}" for one in error.errors())
        raise SetupError(
            f"The settings cannot be used: {wrong}. Nothing was started. Correct the option, or the environment "
            "variable ONECARD_… of that name."
        ) from error
