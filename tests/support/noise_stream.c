/* The 64 random bits of tokens (section 7 of docs/spec.md) as a stream of bytes for a battery of statistical tests.

     noise_stream rows      V tokens of each position, position after position: what a request sees
     noise_stream positions four tokens of each position: the position is the counter
     noise_stream seeds     four tokens of each seed: the key is the counter

   Writes until the reader has had enough, or as many blocks of 2^20 bytes as the second argument says. Compared with
   the reference by the test beside it. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LANES = 16, QUADS_OF_A_ROW = 151936 / 4, QUADS = (1 << 20) / 32 };

/* Ten rounds for LANES counters at once, which a compiler makes vector instructions of. */
static void philox(uint32_t c[4][LANES], const uint32_t low[LANES], const uint32_t high[LANES])
{
    uint32_t k0[LANES], k1[LANES];
    memcpy(k0, low, sizeof k0);
    memcpy(k1, high, sizeof k1);
    for (int round = 0; round < 10; round++)
        for (int i = 0; i < LANES; i++) {
            uint64_t p0 = (uint64_t)0xD2511F53 * c[0][i], p2 = (uint64_t)0xCD9E8D57 * c[2][i];
            uint32_t c0 = (uint32_t)(p2 >> 32) ^ c[1][i] ^ k0[i], c2 = (uint32_t)(p0 >> 32) ^ c[3][i] ^ k1[i];
            c[0][i] = c0;
            c[1][i] = (uint32_t)p2;
            c[2][i] = c2;
            c[3][i] = (uint32_t)p0;
            k0[i] += 0x9E3779B9;
            k1[i] += 0xBB67AE85;
        }
}

int main(int count, char **given)
{
    static uint64_t out[QUADS][4];
    const char *kind = count > 1 ? given[1] : "";
    int of_rows = !strcmp(kind, "rows"), of_seeds = !strcmp(kind, "seeds");
    uint64_t blocks = count > 2 ? strtoull(given[2], NULL, 10) : UINT64_MAX;
    if (!of_rows && !of_seeds && strcmp(kind, "positions")) {
        fprintf(stderr, "usage: noise_stream rows|positions|seeds [BLOCKS]\n");
        return 2;
    }
    uint64_t next = 0;
    for (; blocks; blocks--) {
        for (int at = 0; at < QUADS; at += LANES) {
            uint32_t upper[4][LANES], lower[4][LANES], low[LANES], high[LANES];
            for (int i = 0; i < LANES; i++, next++) {
                uint64_t position = of_seeds ? 0 : of_rows ? next / QUADS_OF_A_ROW : next;
                uint64_t seed = of_seeds ? next : 0;
                uint32_t quad = of_rows ? (uint32_t)(next % QUADS_OF_A_ROW) : 0;
                upper[0][i] = lower[0][i] = quad;
                upper[1][i] = lower[1][i] = (uint32_t)position;
                upper[2][i] = lower[2][i] = (uint32_t)(position >> 32);
                upper[3][i] = 0;
                lower[3][i] = 1;
                low[i] = (uint32_t)seed;
                high[i] = (uint32_t)(seed >> 32);
            }
            philox(upper, low, high);
            philox(lower, low, high);
            for (int lane = 0; lane < 4; lane++)
                for (int i = 0; i < LANES; i++)
                    out[at + i][lane] = (uint64_t)upper[lane][i] << 32 | lower[lane][i];
        }
        if (fwrite(out, sizeof out, 1, stdout) != 1)
            return 0;
    }
    return 0;
}
