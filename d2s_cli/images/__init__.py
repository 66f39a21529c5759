"""Pictures: files to arrays and back, masks, windows round holes, and pairing by name."""
