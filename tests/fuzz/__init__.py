"""What faces servers, and a store's rows, as functions of bytes: for a fuzzing engine, or none."""
