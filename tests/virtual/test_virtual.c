#include "tests/virtual/cluster.h"
#include <stdio.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    sim_tracing = argc > 2;
    cluster_open(argc > 1 ? strtoull(argv[1], NULL, 10) : 1, 3, 2);
    for (unsigned i = 0; i < 3; i++) {
        cluster_start_node(i);
    }
    for (unsigned t = 0; t < 500 && !cluster_converged(); t++) {
        sim_run_until(sim_now() + 10 * SIM_MS);
    }
    printf("converged %d at %f, hash %llx, events %llu turns %llu\n", cluster_converged(),
           (double)sim_now() / 1e9, (unsigned long long)sim_trace_hash(),
           (unsigned long long)sim_counts.events, (unsigned long long)sim_counts.turns);
    cluster_close();
    return 0;
}
