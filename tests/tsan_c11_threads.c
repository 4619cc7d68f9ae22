/* For builds with the thread sanitizer only: C11's threads, mutexes and conditions by those of POSIX.
 *
 * librdkafka uses <threads.h>. The sanitizer of this compiler sees only the POSIX names: a thread made by
 * thrd_create() has no place in it and crashes at its first allocation, and what a mtx_t guards looks like a
 * race. These definitions come before the C library's, for the shared libraries too. In glibc both kinds have
 * the same representation, which the assertions check as far as they can. */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

_Static_assert(sizeof(thrd_t) == sizeof(pthread_t), "thrd_t is a pthread_t");
_Static_assert(sizeof(mtx_t) == sizeof(pthread_mutex_t), "mtx_t is a pthread_mutex_t");
_Static_assert(sizeof(cnd_t) == sizeof(pthread_cond_t), "cnd_t is a pthread_cond_t");

struct begin {
    thrd_start_t function;
    void *argument;
};

static void *begin(void *data)
{
    struct begin it = *(struct begin *)data;
    free(data);
    return (void *)(intptr_t)it.function(it.argument);
}

static int result_of(int reason)
{
    switch (reason) {
    case 0:
        return thrd_success;
    case ENOMEM:
        return thrd_nomem;
    case ETIMEDOUT:
        return thrd_timedout;
    case EBUSY:
        return thrd_busy;
    default:
        return thrd_error;
    }
}

int thrd_create(thrd_t *thread, thrd_start_t function, void *argument)
{
    struct begin *it = malloc(sizeof *it);
    if (it == NULL)
        return thrd_nomem;
    *it = (struct begin){.function = function, .argument = argument};
    int reason = pthread_create((pthread_t *)thread, NULL, begin, it);
    if (reason != 0)
        free(it);
    return result_of(reason);
}

int thrd_join(thrd_t thread, int *ret)
{
    void *value;
    int reason = pthread_join((pthread_t)thread, &value);
    if (reason == 0 && ret != NULL)
        *ret = (int)(intptr_t)value;
    return result_of(reason);
}

int mtx_init(mtx_t *mutex, int type)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    if ((type & mtx_recursive) != 0)
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    int reason = pthread_mutex_init((pthread_mutex_t *)mutex, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return result_of(reason);
}

void mtx_destroy(mtx_t *mutex)
{
    pthread_mutex_destroy((pthread_mutex_t *)mutex);
}

int mtx_lock(mtx_t *mutex)
{
    return result_of(pthread_mutex_lock((pthread_mutex_t *)mutex));
}

int mtx_trylock(mtx_t *mutex)
{
    return result_of(pthread_mutex_trylock((pthread_mutex_t *)mutex));
}

int mtx_unlock(mtx_t *mutex)
{
    return result_of(pthread_mutex_unlock((pthread_mutex_t *)mutex));
}

int cnd_init(cnd_t *condition)
{
    return result_of(pthread_cond_init((pthread_cond_t *)condition, NULL));
}

void cnd_destroy(cnd_t *condition)
{
    pthread_cond_destroy((pthread_cond_t *)condition);
}

int cnd_signal(cnd_t *condition)
{
    return result_of(pthread_cond_signal((pthread_cond_t *)condition));
}

int cnd_broadcast(cnd_t *condition)
{
    return result_of(pthread_cond_broadcast((pthread_cond_t *)condition));
}

int cnd_wait(cnd_t *condition, mtx_t *mutex)
{
    return result_of(pthread_cond_wait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex));
}

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until)
{
    return result_of(pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until));
}
