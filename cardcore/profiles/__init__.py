"""Card profiles as TOML files; `cardcore.profile` reads them."""
