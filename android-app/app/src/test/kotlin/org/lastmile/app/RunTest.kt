package org.lastmile.app

import android.app.Activity
import android.content.Intent
import android.view.ViewGroup
import android.widget.TextView
import java.io.File
import org.json.JSONObject
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test
import org.junit.runner.RunWith
import org.robolectric.Robolectric
import org.robolectric.RobolectricTestRunner
import org.robolectric.RuntimeEnvironment
import org.robolectric.annotation.Config
import org.robolectric.annotation.GraphicsMode

/** Runs requests that the Python tests wrote; the Python tests then check the results. */
@RunWith(RobolectricTestRunner::class)
@Config(sdk = [34])
@GraphicsMode(GraphicsMode.Mode.NATIVE)
class RunTest {
    private val folder = System.getProperty("lastmile.folder")!!
    private val context = RuntimeEnvironment.getApplication()

    private fun run(id: String): JSONObject {
        Foreground.gained(Activity())
        Run.byId(context, id, folder)!!.execute()
        return JSONObject(File(context.getExternalFilesDir(null), "runs/$id/result.json").readText())
    }

    @Test
    fun anInvalidRunIdIsRejected() {
        for (id in listOf("../../etc", "0000FAC75", "short", "a b\n\$(x);'\"", "f".repeat(65), null)) {
            val activity = Robolectric.buildActivity(RunActivity::class.java, Intent().putExtra("run", id)).create().get()
            val content = activity.findViewById<ViewGroup>(android.R.id.content)
            assertEquals(activity.getString(R.string.invalid_run), (content.getChildAt(0) as TextView).text)
        }
        assertFalse(File(context.getExternalFilesDir(null), "runs").exists())
    }

    /** Executes every request in the phone's folder and copies its results to the request's folder. */
    @Test
    fun everyRequestHasAResult() {
        val requests = File("$folder/runs").listFiles().orEmpty().sortedBy { it.name }
        assertTrue("no requests", requests.isNotEmpty())
        for (request in requests) {
            val result = run(request.name)
            assertEquals(1, result.getInt("schema"))
            File(context.getExternalFilesDir(null), "runs/${request.name}").copyRecursively(File(request, "results"), overwrite = true)
        }
    }
}
