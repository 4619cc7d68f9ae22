/* Places of one run in a file, so that another run is compared with it prediction by prediction: differences
 * are much surer than the two means beside each other.
 *
 * Text: `dunlin-eval-places 1`, then predictions, largest k, and a hash of what was asked; then a place a
 * line. */
#include "recommend/eval_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FORMAT 1

enum dn_code dn_eval_places_create(const char *path, FILE **ret, struct dn_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL; /* which does not cut */

    if (file == NULL) {
        int fault = errno;
        if (fd >= 0)
            close(fd);
        return dn_fail(err, DN_IO, "create '%s': %s", path, strerror(fault));
    }
    *ret = file;
    return DN_OK;
}

/* A pipe or a device has no length to cut. */
static bool empty(FILE *file)
{
    struct stat facts;

    return fstat(fileno(file), &facts) == 0 && (!S_ISREG(facts.st_mode) || ftruncate(fileno(file), 0) == 0);
}

enum dn_code dn_eval_places_write(const struct dn_eval_places *places, unsigned method, size_t k,
                                  const char *path, FILE *file, struct dn_error *err)
{
    bool whole = empty(file);

    fprintf(file, "dunlin-eval-places %d\n%zu %zu %016" PRIx64 "\n", FORMAT, places->count, k, places->hash);
    for (size_t i = 0; i < places->count; i++)
        fprintf(file, "%u\n", (unsigned)places->of[method][i]);
    whole = ferror(file) == 0 && whole;
    if (fclose(file) != 0 || !whole)
        return dn_fail(err, DN_IO, "write '%s': %s", path, strerror(errno));
    return DN_OK;
}

static enum dn_code read_places(FILE *file, const char *path, size_t count, size_t k, uint16_t *ret,
                                struct dn_error *err)
{
    for (size_t i = 0; i < count; i++) {
        unsigned place;
        if (fscanf(file, "%4u", &place) != 1 || place > k)
            return dn_fail(err, DN_INVALID, "%s: line %zu: no place from 0 to %zu", path, i + 3, k);
        ret[i] = (uint16_t)place;
    }
    return DN_OK;
}

enum dn_code dn_eval_places_read(const struct dn_eval_places *places, size_t k, const char *path,
                                 uint16_t **ret, struct dn_error *err)
{
    FILE *file = fopen(path, "re");
    uint16_t *read = calloc(places->count + 1, sizeof *read);
    size_t count = 0, of_k = 0;
    uint64_t hash = 0;
    int format = 0;
    enum dn_code code;

    if (file == NULL)
        code = dn_fail(err, DN_IO, "open '%s': %s", path, strerror(errno));
    else if (read == NULL)
        code = dn_fail(err, DN_NO_MEMORY, "out of memory for %zu places", places->count);
    else if (fscanf(file, "dunlin-eval-places %9d %12zu %12zu %16" SCNx64, &format, &count, &of_k, &hash) !=
                 4 ||
             format != FORMAT)
        code = dn_fail(err, DN_INVALID, "%s: no file of places that this dunlin wrote", path);
    else if (count != places->count || of_k != k || hash != places->hash)
        code =
            dn_fail(err, DN_INVALID,
                    "%s: of other predictions: the log, the split, --max, --seed, --k and --live must be the "
                    "same",
                    path);
    else
        code = read_places(file, path, count, k, read, err);
    if (file != NULL)
        fclose(file);
    if (code == DN_OK)
        *ret = read;
    else
        free(read);
    return code;
}
