package org.lastmile.app

import android.content.Context
import android.os.Build
import java.io.File
import java.io.InputStream
import java.util.concurrent.ConcurrentHashMap
import java.util.zip.ZipFile
import org.lastmile.inference.Engine
import org.lastmile.inference.sha256

/** What the app's runtimes really are: the build's name and version, and the hash of the native library that is loaded. */
object Libraries {
    /** What results call each engine's runtime. TensorFlow Lite 2.16.1 is not LiteRT, the later library with the same API. */
    private val NAMES = mapOf("litert" to "tflite", "executorch" to "executorch")

    /** Whose build a library is, if not the project's own. ExecuTorch's project publishes none that could be had; this one is from an npm package. */
    private val BUILDS = mapOf("executorch" to "react-native-executorch ")
    private val FILES = mapOf("litert" to "libtensorflowlite_jni.so", "executorch" to "libexecutorch.so")
    private val hashes = ConcurrentHashMap<String, String>()

    /** The runtime's name in results. */
    fun name(engine: Engine): String = NAMES.getValue(engine.name)

    /** The library's version, with whose build it is. */
    fun version(
        context: Context,
        engine: Engine
    ): String = "${BUILDS[engine.name].orEmpty()}${Facts.metaData(context, "org.lastmile.${engine.name}.version")}"

    /** SHA-256 of the native library that the process has loaded; null if it is found neither as a file nor in the APK. */
    fun sha256(
        context: Context,
        engine: Engine
    ): String? {
        val name = FILES.getValue(engine.name)
        return hashes[name] ?: hash(context, name)?.also { hashes[name] = it }
    }

    private fun hash(
        context: Context,
        name: String
    ): String? {
        val mapped = Facts.read("/proc/self/maps").orEmpty().lineSequence().map { it.substringAfterLast(' ') }.find { it.endsWith("/$name") }
        if (mapped != null) return sha256(File(mapped))
        // Android maps a library that the APK stores uncompressed from the APK itself.
        val info = context.applicationInfo
        val apks = listOfNotNull(info.sourceDir, *info.splitSourceDirs.orEmpty())
        return apks.filter { File(it).isFile }.firstNotNullOfOrNull { apk ->
            ZipFile(apk).use { zip ->
                val entry = Build.SUPPORTED_ABIS.firstNotNullOfOrNull { zip.getEntry("lib/$it/$name") }
                entry?.let { zip.getInputStream(it).use(InputStream::sha256) }
            }
        }
    }
}
