package org.lastmile.inference

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.io.OutputStream

/** Writes a file completely or not at all: writes a temporary file in the same folder, then renames it. */
fun writeAtomically(file: File, write: (OutputStream) -> Unit) {
    val temporary = File(file.parentFile, ".tmp-${file.name}")
    try {
        FileOutputStream(temporary).use {
            write(it)
            it.flush()
            it.fd.sync()
        }
        if (!temporary.renameTo(file)) throw IOException("cannot rename to $file")
    } finally {
        temporary.delete()
    }
}
