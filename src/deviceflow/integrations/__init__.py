"""deviceflow in other libraries' conventions, each imported where it is used."""
