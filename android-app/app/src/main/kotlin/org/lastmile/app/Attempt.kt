package org.lastmile.app

/**
 * Runs [body] and catches what it throws. Other apps, disks and runtimes throw any exception, and memory may run out; none of this
 * may crash the app.
 */
internal inline fun <T> attempt(body: () -> T): Result<T> =
    try {
        Result.success(body())
    } catch (error: Exception) {
        Result.failure(error)
    } catch (error: OutOfMemoryError) {
        Result.failure(error)
    }

/** An error message for users, in one line. */
internal fun oneLine(error: Throwable): String =
    if (error is OutOfMemoryError) {
        "the phone does not have enough memory"
    } else {
        error.message.orEmpty().lineSequence().map { it.trim() }.find { it.isNotEmpty() } ?: "$error"
    }
