#include "base/mutant.h"

#ifdef DUNLIN_MUTANTS

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static enum dn_mutant chosen;

static void choose(void)
{
    static const char *const NAMES[] = {NULL,
#define X(symbol, name, text) name,
                                        DN_MUTANTS(X)
#undef X
    };
    const char *wanted = getenv("DUNLIN_MUTANT");
    if (wanted == NULL || wanted[0] == 0) {
        return;
    }
    for (size_t i = 1; i < sizeof NAMES / sizeof NAMES[0]; i++) {
        if (strcmp(wanted, NAMES[i]) == 0) {
            chosen = (enum dn_mutant)i;
            (void)fprintf(stderr, "mutant: %s (a build that is wrong on purpose)\n", wanted);
            return;
        }
    }
    (void)fprintf(stderr, "DUNLIN_MUTANT: there is no mutant '%s'; see base/mutant.h\n", wanted);
    exit(2);
}

bool dn_mutant(enum dn_mutant mutant)
{
    pthread_once(&once, choose);
    return chosen == mutant;
}

#else
typedef int dn_mutants_are_not_built; /* a translation unit may not be empty */
#endif
