// Empty: what the target of this file is for are its precompiled headers.
