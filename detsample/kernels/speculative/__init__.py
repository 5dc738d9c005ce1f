"""The kernels of speculative verification: rows of requests, chains, trees and rejection."""
