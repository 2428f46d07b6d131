"""What a deployment may set, by options or by environment variables ONECARD_…, and where things lie under the state
directory."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """`state` holds `postgres/` (unless `dsn` names a server), `keys/` and the key file beside it."""

    model_config = SettingsConfigDict(env_prefix="ONECARD_", extra="ignore")

    state: Path = Path("onecard-state")
    dsn: str | None = None
    host: str = "127.0.0.1"
    port: int = 8478
    clock: Path | None = None

    @property
    def keys(self) -> Path:
        return self.state / "keys"
