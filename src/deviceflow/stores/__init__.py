"""Where flows live between two steps."""
