"""Calls that a warmup makes, on the GPUs of fake_framework.py: for programs of test_warming.py."""

# ruff: noqa: F401

import threading

import numpy as np
from fake_framework import FRAMEWORK, HERE, Tensor

import detsample
from detsample import frameworks
from detsample.sampler import warmup as warming

frameworks.named = lambda name: FRAMEWORK


def calls(masks, types):
    return list(warming._calls(FRAMEWORK, ("gpu", 0), ["float32"], masks, types, (False,)))


def names(jobs):
    return sorted(job["name"] for job in jobs)
