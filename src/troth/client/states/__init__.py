"""Sagas written in Seata's state language: definitions in JSON, read, checked, interpreted. No I/O, no clock."""
