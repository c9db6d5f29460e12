"""How far a reader travels who follows the code: `python -m tests.walks`."""
